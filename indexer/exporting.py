"""`gmvaluator index export`."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click

from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.commands.options import collection_option, index_option, json_option, place_option
from gmvaluator.index.schema import CollectionMetadata
from gmvaluator.storage.database import Place
from indexer.embeddings.exporting import export as write_embeddings
from indexer.target import Target


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@place_option
@index_option
@collection_option
@json_option
def export(folder: Path, place: Place, index_url: str, collection: str, as_json: bool) -> None:
    """Write every point's vectors and metadata to FOLDER, in clip-retrieval's layout.

    `gmvaluator index add FOLDER` rebuilds an index from it, without the images and without a model. Rights are not
    in it: the catalogue has a backup of its own.

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
