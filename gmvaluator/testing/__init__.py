"""Fakes and servers for tests of programs that use gmvaluator.

    attributor      a fake attributor on loopback, for tests of clients
    models          models without weights that prefer similar colours
    index           a vector index in memory, exact
    postings        postings as the ledger receives them, and a rights catalogue in memory
    postgresql      a temporary PostgreSQL server, for tests of the catalogue and the ledger
    certificates    a certificate authority, for tests over TLS
    stub_models     models of a fixed cost, for load tests (`--profile stub`)

The index passes the same contract tests as the real one; models and rights implement the protocols of
`gmvaluator.ports`.
"""
