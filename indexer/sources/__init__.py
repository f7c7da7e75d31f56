"""Sources of training images: one module per format; `opening` chooses the format, `item` defines the items."""
