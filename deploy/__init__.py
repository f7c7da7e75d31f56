"""Deployment files, and the checks of a release."""
