"""The ledger: who earned what, by which generation, and why. Append-only, hash-chained, exactly once."""
