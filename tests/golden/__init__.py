"""Stored outputs, and the programs that write them."""
