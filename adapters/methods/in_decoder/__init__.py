"""Methods that act inside the decoder, by its own attention."""
