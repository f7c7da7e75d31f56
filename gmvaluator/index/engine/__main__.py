"""Entry point of the engine process: `python -m gmvaluator.index.engine DIR [PORT]`.

Programs start it through `gmvaluator.index.engine.launcher`.
"""

import importlib.util
import os
import sys

# Importing qdrant_client runs its __init__, which builds a thousand models of the REST API. That takes a second, four
# fifths of the engine's start. The engine only needs the generated messages, so the parent package is not executed.
_spec = importlib.util.find_spec("qdrant_client")
assert _spec is not None
sys.modules["qdrant_client"] = importlib.util.module_from_spec(_spec)

from gmvaluator.index.engine.server import main  # noqa: E402

os.umask(0o077)  # qdrant-edge's files, too, are for this process's user alone
sys.exit(main(sys.argv[1:]))
