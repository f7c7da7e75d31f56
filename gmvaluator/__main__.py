"""`python -m gmvaluator` is `gmvaluator`."""

from gmvaluator.cli import main

main()
