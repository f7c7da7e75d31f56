"""The indexer: reads training images, embeds them and writes them to the vector index and the catalogue."""
