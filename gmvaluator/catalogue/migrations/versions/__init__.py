"""Migration scripts, one for each revision."""
