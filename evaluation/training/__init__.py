"""Training of the product's own weights: profile `lite`."""
