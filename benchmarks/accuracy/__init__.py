"""Asking models the questions of a benchmark, and keeping their answers."""
