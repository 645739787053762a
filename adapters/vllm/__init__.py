"""The vLLM plugin: PruneVid's merge, within a budget, in vLLM's video models."""
