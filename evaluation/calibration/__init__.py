"""Fits a policy: the temperature and the residual under which known sources are likeliest."""
