"""The catalogue: who made what. Works, owners, rights, generators, and how far indexing has come."""
