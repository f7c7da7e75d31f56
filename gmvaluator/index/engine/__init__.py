"""The embedded engine: a process that runs qdrant-edge and serves a part of Qdrant's gRPC API on loopback."""
