"""Near-copies: which distance tells them from other works, and what adding copies of a work earns."""
