"""Controls: what a method has to beat, and how much an answer owes to the video at all."""
