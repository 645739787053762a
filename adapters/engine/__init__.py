"""How pruning is carried out inside an unmodified model."""
