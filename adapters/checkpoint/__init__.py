"""Checkpoint folders on disk, and strict loading of their weights."""
