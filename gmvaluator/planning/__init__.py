"""How large a deployment has to be: `gmvaluator plan`."""
