"""The command group `gmvaluator index`, with its commands `export`, `info` and `rebuild`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import rich_click as click

from gmvaluator.catalogue.store import open_catalogue, open_if_present
from gmvaluator.commands.options import (
    collection_option,
    index_option,
    json_option,
    place_option,
    with_advanced_panel,
)
from gmvaluator.commands.parameters import FOLDER
from gmvaluator.index.engine.quantisation import CHOICES
from gmvaluator.index.schema import CollectionMetadata, IndexSettings, growth_since_verified, measured_recall
from gmvaluator.storage.database import DataLocation
from indexer.cli.add import SettingsChange, add, collection_dict, settings_options
from indexer.cli.copy import copy
from indexer.cli.group import group
from indexer.cli.remove import remove, restore
from indexer.cli.verify import verify
from indexer.embeddings.exporting import export as write_embeddings
from indexer.removal import without_removed
from indexer.target import Target


@click.command()
@click.argument("folder", type=FOLDER)
@place_option
@index_option
@collection_option
@json_option
def export(folder: Path, place: DataLocation, index_url: str, collection: str, as_json: bool) -> None:
    """Write every point's vectors and metadata to FOLDER, in clip-retrieval's layout.

    `gmvaluator index add FOLDER` rebuilds an index from it, without the images and without a model. It does not hold
    rights: back up the catalogue for them.

    Example: gmvaluator index export ./embeddings --data ./gmvaluator-data
    """
    target = Target(place.folder, index_url, collection)
    with target.open_existing() as store, open_catalogue(place) as catalogue:
        info = store.info()
        profile = CollectionMetadata.from_dict(info.name, info.metadata).profile
        done = 0

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            click.echo(f"exported {done:,}/{info.points:,}", err=True)

        rows = write_embeddings(store.scan(with_vectors=True), profile, catalogue, folder, advance)
    if as_json:
        click.echo(json.dumps({"rows": rows, "folder": str(folder), "profile": profile.name}))
    else:
        click.echo(f"{rows:,} points written to {folder}")


@click.command()
@with_advanced_panel
@click.option(
    "--quantisation", type=click.Choice(CHOICES), help="Compression of the vectors searched; default: unchanged."
)
@settings_options
@place_option
@index_option
@collection_option
@json_option
def rebuild(
    quantisation: str | None,
    change: SettingsChange,
    place: DataLocation,
    index_url: str,
    collection: str,
    as_json: bool,
) -> None:
    """Copy the collection's points into a fresh one, build it, and swap it in whole; searches go on meanwhile.

    The new collection has the settings given; the others are unchanged. If it is killed, either the old or the new
    collection serves: run the same command again. The catalogue is locked meanwhile, so no indexer can run.

    Example: gmvaluator index rebuild --quantisation pq-x32 --hnsw-m 32
    """
    target = Target(place.folder, index_url, collection)
    # Opened for writing to lock out indexers: points that they wrote now would be missing from the copy.
    with open_catalogue(place, write=True) as catalogue, target.open_existing() as store:
        before = CollectionMetadata.from_dict(collection, store.info().metadata)
        click.echo(f"rebuilding collection {collection!r}", err=True)
        target.rebuild(collection, without_removed(catalogue), quantisation, change(before.settings))
        info = store.info()
    if as_json:
        click.echo(json.dumps(collection_dict(info)))
        return
    click.echo(f"collection {info.name!r} is rebuilt: {info.points:,} points, {info.indexed_points:,} quantised")
    if before.measured and not info.metadata.get("measured"):
        click.echo("what was measured of it no longer counts: run `gmvaluator index verify`", err=True)


@click.group()
def index() -> None:
    """Build and check the index of training images.

    Example: gmvaluator index add examples/openclipart
    """


index.add_command(add)
index.add_command(copy)
index.add_command(export)
index.add_command(group)
index.add_command(rebuild)
index.add_command(remove)
index.add_command(restore)
index.add_command(verify)


@index.command("info")
@place_option
@index_option
@collection_option
@json_option
def show_info(place: DataLocation, index_url: str, collection: str, as_json: bool) -> None:
    """Show what the index holds, and by which profile it was built.

    Example: gmvaluator index info --json
    """
    with Target(place.folder, index_url, collection).open_existing() as store:
        info = store.info()
    with open_if_present(place) as catalogue:
        owners = None if catalogue is None else catalogue.ownership()
    if as_json:
        click.echo(json.dumps({**collection_dict(info), "owners": None if owners is None else owners.as_dict()}))
        return
    profile = info.metadata.get("profile", {})
    click.echo(f"collection {info.name}: {info.points:,} points, {info.indexed_points:,} quantised")
    if owners is not None:
        click.echo(f"catalogue: {owners}")
    click.echo(f"profile {profile.get('name')}: recall {profile.get('recall_dim')} dimensions, "
               f"perceptual {profile.get('perceptual_dim')}")  # fmt: skip
    metadata = CollectionMetadata.from_dict(info.name, info.metadata)
    click.echo(f"settings: {metadata.quantisation}, " + _settings_text(metadata.settings))
    growth = growth_since_verified(info)
    click.echo("recall: never measured" if growth is None else f"recall: {measured_recall(info.metadata)}, measured "
               f"{growth:.0%} of growth ago")  # fmt: skip
    click.echo(f"ready: {'yes' if info.ready else 'no, it is being built'}")


def _settings_text(settings: IndexSettings) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(settings).items() if value is not None)
