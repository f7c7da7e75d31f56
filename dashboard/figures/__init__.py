"""Data that the pages show: the live overview, balance history, cards of generated images, near-duplicates, metrics."""
