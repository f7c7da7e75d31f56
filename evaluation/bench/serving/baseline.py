"""Baseline of the serving benchmark: decoding and model in a plain loop, with the service's thread settings.

Run as `python -m evaluation.bench.serving.baseline --help`.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import rich_click as click

from evaluation.bench.serving.load import image_files
from gmvaluator.commands.options import choice_options
from gmvaluator.images import decode_image
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.process_setup import prepare_process
from gmvaluator.models.profiles import load_models


@click.command()
@click.option("--images", required=True, type=click.Path(exists=True, path_type=Path), help="Folder of images.")
@click.option("--count", required=True, type=int)
@click.option("--batch", default=32)
@click.option("--threads", default=1)
@choice_options
def main(images: Path, count: int, batch: int, threads: int, choice: ProfileChoice) -> None:
    """Decode and embed images in batches; print a JSON object with seconds and images_per_s."""
    prepare_process()
    models = load_models(choice, threads=threads)
    data = [path.read_bytes() for path in image_files(images)]
    models.embed([models.prepare(decode_image(data[0]))] * batch)
    started = time.monotonic()
    for start in range(0, count, batch):
        numbers = range(start, min(start + batch, count))
        models.embed([models.prepare(decode_image(data[number % len(data)])) for number in numbers])
    seconds = time.monotonic() - started
    click.echo(json.dumps({"seconds": seconds, "images_per_s": count / seconds}))


if __name__ == "__main__":
    main()
