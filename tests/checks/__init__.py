"""Checks of the repository itself: architecture, documentation, deployment files and releases."""
