"""Cause, not only likeness: what a small generator draws when it is trained without the works that were credited."""
