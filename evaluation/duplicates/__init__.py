"""Near-duplicates: which distance separates them from other works, and what adding copies of a work earns."""
