"""The royalty dashboard: web pages over the ledger, in a process of their own."""
