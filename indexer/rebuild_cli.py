"""`gmvaluator index rebuild`."""

from __future__ import annotations

import json

import rich_click as click

from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.commands.options import collection_option, index_option, json_option, place_option
from gmvaluator.index.schema import CHOICES, CollectionMetadata
from gmvaluator.storage.database import Place
from indexer.adding import collection_dict
from indexer.removal import without_removed
from indexer.settings_options import Chosen, settings_options
from indexer.target import Target


@click.command()
@click.option("--quantisation", type=click.Choice(CHOICES), help="Of the vectors searched; default: as it is.")
@settings_options
@place_option
@index_option
@collection_option
@json_option
def rebuild(
    quantisation: str | None, chosen: Chosen, place: Place, index_url: str, collection: str, as_json: bool
) -> None:
    """Copy the collection's points into a fresh one, build it, and swap it in whole; searches go on meanwhile.

    With other settings if they are given. Killed at any moment, the old or the new one serves; give it again then.
    Nobody may index meanwhile: the catalogue is held.

    Example: gmvaluator index rebuild --quantisation pq-x32 --hnsw-m 32
    """
    target = Target(place.folder, index_url, collection)
    with open_catalogue(place, write=True) as catalogue, target.open_existing() as store:
        before = CollectionMetadata.from_dict(collection, store.info().metadata)
        click.echo(f"rebuilding collection {collection!r}", err=True)
        target.rebuild(collection, without_removed(catalogue), quantisation, chosen(before.settings))
        info = store.info()
    if as_json:
        click.echo(json.dumps(collection_dict(info)))
        return
    click.echo(f"collection {info.name!r} is rebuilt: {info.points:,} points, {info.indexed_points:,} quantised")
    if before.measured and not info.metadata.get("measured"):
        click.echo("what was measured of it no longer counts: run `gmvaluator index verify`", err=True)
