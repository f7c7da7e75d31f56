"""The transport: the gRPC server, its servicers and interceptors, admission and TLS."""
