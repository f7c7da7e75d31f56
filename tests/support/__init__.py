"""Helpers that every tier of tests may import; they import no tests."""
