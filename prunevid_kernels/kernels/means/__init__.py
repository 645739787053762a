"""Means of tokens: of a frame, of a merged token, and of other features by a plan that exists."""
