"""Measuring, running and reporting."""
