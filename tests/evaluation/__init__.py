"""Tests of the evaluation: everything that imports torch or draws statistics."""
