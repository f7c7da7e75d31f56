"""The vector index: the Qdrant collection, its client adapters and the embedded engine."""
