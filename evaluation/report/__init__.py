"""The report of all benchmarks: `gmvaluator evaluate all` writes one page and its figures."""
