"""ST-LLM."""
