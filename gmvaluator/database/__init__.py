"""SQL databases as the catalogue and the ledger open them: engines, the writer's lock, schema revisions."""
