"""End-to-end latency of one model, unpruned and under each method."""
