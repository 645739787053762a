"""Kernels of the second step, inside the decoder: scores of visual tokens, and the gather."""
