"""FLOPs of a prompt, counted from token numbers and shapes."""
