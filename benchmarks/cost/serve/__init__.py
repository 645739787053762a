"""Throughput and waiting time of a vLLM server, with and without pruning."""
