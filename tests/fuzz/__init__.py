"""Fuzzing: `python -m tests.fuzz decode --cases 1000000`; `make fuzz` runs both targets."""
