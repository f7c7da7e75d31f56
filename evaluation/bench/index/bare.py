"""The baseline of indexing: decode, prepare and embed works in a plain loop."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from gmvaluator.images import decode_image
from gmvaluator.models.process_setup import prepare_process
from gmvaluator.models.profiles import load_models

BATCH_VIEWS = 64
"""Views of one batch, as many as the indexer takes."""


def main(folder: Path, threads: int) -> None:
    """Embed every image of a folder as a work, in all views; print one JSON object with the seconds it took."""
    prepare_process()
    models = load_models("lite", threads=threads)
    batch = max(1, BATCH_VIEWS // models.identity.perceptual_views)
    paths = sorted(folder.iterdir())
    models.embed_works([models.prepare_work(decode_image(paths[0].read_bytes()))])
    began = time.monotonic()
    for start in range(0, len(paths), batch):
        files = [path.read_bytes() for path in paths[start : start + batch]]
        models.embed_works([models.prepare_work(decode_image(data)) for data in files])
    print(json.dumps({"seconds": time.monotonic() - began}))  # noqa: T201 - its answer


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
