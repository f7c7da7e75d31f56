"""`gmvaluator bench serve`: what the service adds to its models, and how it behaves under load."""
