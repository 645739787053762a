"""Methods that act before the decoder, by what the vision tower looks at."""
