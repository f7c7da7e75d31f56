"""The method of the paper: similarity weights, residuals, uncertainty and policies."""
