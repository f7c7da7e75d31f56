"""Fakes of the ports, shipped so that users of the package can test against them."""
