"""Copies of the ledger: backups while it is written, and exports for other programs."""
