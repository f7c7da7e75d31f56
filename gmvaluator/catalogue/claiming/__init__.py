"""Rights as people hand them in: reading the file, checking splits, and recording claims."""
