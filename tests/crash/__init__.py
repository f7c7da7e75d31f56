"""Crash tests: processes are killed and power is cut, and the ledger is compared with an oracle; `make crash`."""
