"""Test images derived from the sample by known recipes, and the programs that make them."""
