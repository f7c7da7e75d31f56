"""The method of the paper, pure: similarity weights, residual, uncertainty and policies."""
