"""From run folders and latency files to the table of the paper, a page and plots."""
