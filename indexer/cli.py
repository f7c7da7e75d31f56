"""`gmvaluator index`: add, export, group, info, rebuild, remove, verify."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import rich_click as click

from gmvaluator.commands.options import collection_option, data_option, index_option, json_option
from gmvaluator.index.schema import CollectionMetadata, IndexSettings, growth_since_verified, measured_recall
from indexer.adding import add, collection_dict
from indexer.exporting import export
from indexer.group_cli import group
from indexer.rebuild_cli import rebuild
from indexer.remove_cli import remove
from indexer.target import Target
from indexer.verify_cli import verify


@click.group()
def index() -> None:
    """Build and check the index of training images.

    Example: gmvaluator index add examples/openclipart
    """


index.add_command(add)
index.add_command(export)
index.add_command(group)
index.add_command(rebuild)
index.add_command(remove)
index.add_command(verify)


@index.command()
@data_option
@index_option
@collection_option
@json_option
def info(data: Path, index_url: str, collection: str, as_json: bool) -> None:
    """Say what the index holds, and by which profile it was built.

    Example: gmvaluator index info --json
    """
    with Target(data, index_url, collection).open_existing() as store:
        found = store.info()
    if as_json:
        click.echo(json.dumps(collection_dict(found)))
        return
    profile = found.metadata.get("profile", {})
    click.echo(f"collection {found.name}: {found.points:,} points, {found.indexed_points:,} quantised")
    click.echo(f"profile {profile.get('name')}: recall {profile.get('recall_dim')} dimensions, "
               f"perceptual {profile.get('perceptual_dim')}")  # fmt: skip
    metadata = CollectionMetadata.from_dict(found.name, found.metadata)
    click.echo(f"kept by: {metadata.quantisation}, " + _kept_by(metadata.settings))
    growth = growth_since_verified(found)
    click.echo("recall: never measured" if growth is None else f"recall: {measured_recall(found.metadata)}, measured "
               f"{growth:.0%} of growth ago")  # fmt: skip
    click.echo(f"ready: {'yes' if found.ready else 'no, it is being built'}")


def _kept_by(settings: IndexSettings) -> str:
    said = [f"{name} {value}" for name, value in asdict(settings).items() if value is not None]
    return ", ".join(said)
