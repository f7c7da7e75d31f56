"""Months of the ledger: closing, signed checkpoints, payouts and royalty statements."""
