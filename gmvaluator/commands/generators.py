"""`gmvaluator generators add|list`."""

from __future__ import annotations

import json
from dataclasses import asdict

import rich_click as click

from gmvaluator.commands.options import collection_option, json_option, place_option
from gmvaluator.ports import Generator
from gmvaluator.storage.database import DataLocation


@click.group()
def generators() -> None:
    """Register the image generators whose images are attributed.

    Example: gmvaluator generators list
    """


@generators.command()
@click.argument("model_version")
@click.option(
    "--data-set", "data_sets", multiple=True, required=True, help="Data set that it was trained on; may be repeated."
)
@click.option("--policy", default="paper@1", show_default=True, help="Policy that values its images, NAME@N.")
@click.option("--replace", is_flag=True, help="Overwrite a registration that differs.")
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
    """Register the generator MODEL_VERSION; only works of its data sets are credited for its images.

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
    """List the registered generators.

    Example: gmvaluator generators list --json
    """
    from gmvaluator.catalogue.store import open_catalogue

    with open_catalogue(place) as catalogue:
        registered = catalogue.generators()
    if as_json:
        click.echo(json.dumps({"generators": [asdict(generator) for generator in registered]}))
        return
    for generator in registered:
        click.echo(_line(generator))
    if not registered:
        click.echo("no generator is registered: add one by `gmvaluator generators add MODEL_VERSION --data-set NAME`")


def _line(generator: Generator) -> str:
    return (
        f"{generator.model_version}: trained on {', '.join(generator.data_sets)}; "
        f"valued by {generator.policy}; collection {generator.collection}"
    )
