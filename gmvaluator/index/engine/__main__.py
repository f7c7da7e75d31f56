"""Run the engine: `python -m gmvaluator.index.engine DIR`. Programs start it through `gmvaluator.index.launcher`."""

import sys

from gmvaluator.index.engine.server import main

sys.exit(main(sys.argv[1:]))
