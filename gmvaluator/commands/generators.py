"""`gmvaluator generators`: add, list."""

from __future__ import annotations

import json
from dataclasses import asdict

import rich_click as click

from gmvaluator.commands.options import collection_option, json_option, place_option
from gmvaluator.ports import Generator
from gmvaluator.storage.database import DataLocation


@click.group()
def generators() -> None:
    """Register the image generators that are served.

    Example: gmvaluator generators list
    """


@generators.command()
@click.argument("model_version")
@click.option("--data-set", "data_sets", multiple=True, required=True, help="Trained on this; may be repeated.")
@click.option("--policy", default="paper@1", show_default=True, help="How its images are valued, NAME@N.")
@click.option("--replace", is_flag=True, help="Change a generator that is registered otherwise.")
@collection_option
@place_option
@json_option
def add(
    model_version: str,
    data_sets: tuple[str, ...],
    policy: str,
    replace: bool,
    collection: str,
    place: DataLocation,
    as_json: bool,
) -> None:
    """Register MODEL_VERSION, so that its images can be valued; only works of its data sets are paid.

    Example: gmvaluator generators add demo-1 --data-set openclipart
    """
    from gmvaluator.catalogue.store import open_catalogue

    generator = Generator(model_version, collection, tuple(dict.fromkeys(data_sets)), policy)
    with open_catalogue(place, write=True) as catalogue:
        catalogue.add_generator(generator, replace)
    click.echo(json.dumps(asdict(generator)) if as_json else _line(generator))


@generators.command("list")
@place_option
@json_option
def list_(place: DataLocation, as_json: bool) -> None:
    """List the generators that are registered.

    Example: gmvaluator generators list --json
    """
    from gmvaluator.catalogue.store import open_catalogue

    with open_catalogue(place) as catalogue:
        found = catalogue.generators()
    if as_json:
        click.echo(json.dumps({"generators": [asdict(generator) for generator in found]}))
        return
    for generator in found:
        click.echo(_line(generator))
    if not found:
        click.echo("no generator is registered: add one by `gmvaluator generators add MODEL_VERSION --data-set NAME`")


def _line(generator: Generator) -> str:
    return (
        f"{generator.model_version}: trained on {', '.join(generator.data_sets)}; "
        f"valued by {generator.policy}; collection {generator.collection}"
    )
