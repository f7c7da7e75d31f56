"""The embedded engine: a process that hosts qdrant-edge and answers a part of Qdrant's gRPC API on loopback."""
