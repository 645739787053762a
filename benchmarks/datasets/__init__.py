"""What ``prunevid eval`` asks: the paper's four benchmarks on disk, and generated clips."""
