"""Speed, measured as ratios to a baseline of the same run."""
