"""Where training images come from: one module a format, `opening` to choose one, `item` for what they yield."""
