"""Fits what this product ships of its own: the heads of profile `lite`."""
