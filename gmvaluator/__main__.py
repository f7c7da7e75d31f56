"""`python -m gmvaluator` is `gmvaluator`."""

from gmvaluator.commands.main import main

main()
