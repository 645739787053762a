"""Methods that act before the decoder, by the tokens alone or by them and the question."""
