"""The commands `gmvaluator index ...`."""
