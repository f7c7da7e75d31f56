"""One page of all benchmarks: `gmvaluator evaluate all`."""
