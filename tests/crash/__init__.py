"""Crash tests: processes are killed, power losses are simulated, and the ledger is compared with an oracle."""
