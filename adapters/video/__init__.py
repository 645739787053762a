"""Video files in, frames out: reading, the sampling rules, pixels."""
