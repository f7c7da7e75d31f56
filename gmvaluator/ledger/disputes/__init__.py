"""Disputes: somebody says that credits went to the wrong owner; they are held until it is decided."""
