"""Throughput and waiting time of vLLM servers, unpruned and pruned in several ways."""
