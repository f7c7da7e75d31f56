"""Capacity planning for `gmvaluator plan`: request, constants, formulae and the plan."""
