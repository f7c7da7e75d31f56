"""GMValuator: similarity-based valuation of the training data of image generators (arXiv 2304.10701)."""

__version__ = "0.1.0"
