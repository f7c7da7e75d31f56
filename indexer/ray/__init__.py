"""Indexing on a Ray cluster: the driver and its workers."""
