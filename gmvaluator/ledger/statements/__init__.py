"""Royalty statements: what an owner had, earned and is paid in one period, for people and for programs."""
