"""Causes, not only similarity: what a small generator draws when it is trained without the credited works."""
