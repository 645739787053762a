"""The kernels: inputs, comparisons, correctness at near-ties, tuning."""
