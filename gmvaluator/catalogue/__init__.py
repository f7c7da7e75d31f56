"""The catalogue: works, their owners and rights, registered generators, and the progress of indexing."""
