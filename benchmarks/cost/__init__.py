"""What pruning costs and saves: FLOPs, kernels, latency, serving."""
