"""`gmvaluator attribute`: what a generation server does, from a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import rich_click as click
from rich.console import Console

from gmvaluator.client.connection import Connection
from gmvaluator.client.options import connection_options
from gmvaluator.client.show import StagePrinter, attribution_dict
from gmvaluator.client.sync import AttributorClient
from gmvaluator.errors import MissingData
from gmvaluator.ids import sha256_hex
from gmvaluator.images import MAX_IMAGE_BYTES
from gmvaluator.v1 import attribution_pb2 as attribution_v1


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@connection_options
@click.option("--model-version", required=True, envvar="GMV_MODEL_VERSION", help="The generator that made the images.")
@click.option("--generation-id", help="Id of the generation, for one image; default: sha256: and the file's hash.")
@click.option("--preview", is_flag=True, help="Value the images, but post nothing.")
@click.option("--top", default=3, show_default=True, type=click.IntRange(1, 1000), help="Contributors shown.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a stage on stdout.")
def attribute(
    images: tuple[Path, ...],
    connection: Connection,
    model_version: str,
    generation_id: str | None,
    preview: bool,
    top: int,
    as_json: bool,
) -> None:
    """Send IMAGES to a running attributor and print each stage as it arrives.

    Sending the same image again posts nothing: its default id is its hash.

    Example: gmvaluator attribute --model-version demo-1 examples/generated/*.webp
    """
    if generation_id is not None and len(images) > 1:
        raise click.UsageError("--generation-id names one generation: give one image with it")
    printer = StagePrinter(Console(), top)
    with AttributorClient(connection) as client:
        for path in images:
            data = read_image(path)
            name = generation_id or f"sha256:{sha256_hex(data)}"
            stages = client.preview(data, model_version) if preview else client.attribute(data, name, model_version)
            _print_json(path, stages) if as_json else _print_stages(printer, path, stages)


def read_image(path: Path) -> bytes:
    """Bytes of a file, one more than the limit at most. Raises MissingData if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise MissingData(f"{path} cannot be read: {error.strerror}") from error


def _print_json(path: Path, stages: Iterator[attribution_v1.Attribution]) -> None:
    for stage in stages:
        click.echo(json.dumps({"file": str(path), **attribution_dict(stage)}))


def _print_stages(printer: StagePrinter, path: Path, stages: Iterator[attribution_v1.Attribution]) -> None:
    printer.heading(path.name)
    for stage in stages:
        printer.stage(stage)
