"""One video, one question: the run, its page and its drawings."""
