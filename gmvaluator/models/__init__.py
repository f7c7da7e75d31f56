"""Profiles: named sets of models that turn images into embeddings and qualities. Start at `registry`."""
