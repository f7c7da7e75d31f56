"""Evaluation: benchmarks of the credits, calibration, training of profile `lite`, and speed benchmarks."""
