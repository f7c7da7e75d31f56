"""Storage shared by catalogue and ledger: databases, schema revisions, locks and the data folder."""
