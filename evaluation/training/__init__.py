"""Fits what this product ships of its own: the weights of profile `lite`."""
