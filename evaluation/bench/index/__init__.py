"""`gmvaluator bench index`: how fast works are indexed, and what compression costs and saves, at real shapes."""
