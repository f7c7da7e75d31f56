"""The command `gmvaluator index copy`: move a collection between the embedded engine and a Qdrant server."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from gmvaluator.auth.secret_files import qdrant_api_key
from gmvaluator.commands.options import collection_option, json_option, names_server
from gmvaluator.errors import InvalidInput, MissingIndex
from gmvaluator.index.schema import RECALL_FLOOR
from indexer.cli.progress import LINE_EVERY_S
from indexer.cli.verify import trusted

if TYPE_CHECKING:
    from gmvaluator.index.copying import Copied
    from gmvaluator.index.store import QdrantStore

K = 50
"""Neighbours compared when the recall of the copy is measured; fewer in a collection that is smaller."""


@click.command()
@click.option("--from", "source", required=True, metavar="INDEX", help="DATA/index, or the URL of a Qdrant server.")
@click.option("--to", "target", required=True, metavar="INDEX", help="Where to copy it: likewise a folder or a URL.")
@collection_option
@click.option("--to-collection", default="", metavar="NAME", help="Name of the copy; default: that of the collection.")
@json_option
def copy(source: str, target: str, collection: str, to_collection: str, as_json: bool) -> None:
    """Copy a collection between the embedded engine and a Qdrant server, and measure the copy's recall.

    A new copy has the collection's quantisation and settings. Points that the copy holds are not written again: give
    the same command again after a stop, or to bring what was added since. The key of a server is read from
    QDRANT_API_KEY. Catalogue and ledger stay where they are; they name works by the same ids.

    Example: gmvaluator index copy --from ./gmvaluator-data/index --to http://qdrant:6334
    """
    name = to_collection or collection
    if (_place(source), collection) == (_place(target), name):
        raise InvalidInput("--from and --to name the same collection: give another --to or another --to-collection")
    result = _copy(source, collection, target, name)
    figures = _measured(target, name, result.target_points)
    if as_json:
        click.echo(json.dumps({**asdict(result), "collection": name, "figures": figures}))
    else:
        click.echo(
            f"{result.points:,} points in {source}, {result.written:,} written; {target} holds {result.target_points:,}"
        )
    if figures is not None and not trusted(figures, figures["k"], RECALL_FLOOR):
        sys.exit(1)


def _copy(source: str, collection: str, target: str, name: str) -> Copied:
    from gmvaluator.index.copying import copy_collection

    if not names_server(source) and not Path(source).is_dir():
        raise MissingIndex(f"there is no index in {source}: name the folder `index` in a data folder, or a URL")
    with closing(_open(source, collection)) as original:
        metadata = original.metadata()
        settings = metadata.settings
        if not names_server(target):
            settings = replace(settings, shard_number=None, replication_factor=None, write_consistency_factor=None)
        with closing(_open(target, name, quantisation=metadata.quantisation, settings=settings)) as copied:
            return copy_collection(original, copied, _lines())


def _measured(target: str, name: str, points: int) -> dict[str, Any] | None:
    """Return the figures of a verification of the copy; None if it holds too few points for one."""
    from gmvaluator.index.verify import verify

    if points < 2:
        return None
    return verify(_place(target), name, api_key=_key(target), k=min(K, points - 1))


def _open(index: str, collection: str, **new: Any) -> QdrantStore:
    """Open a collection. new: what it is created with if it is absent."""
    from gmvaluator.index.opening import open_store

    return open_store(_place(index), collection, api_key=_key(index), **new)


def _place(index: str) -> str | Path:
    return index.rstrip("/") if names_server(index) else Path(index).resolve()


def _key(index: str) -> str | None:
    return qdrant_api_key() if names_server(index) else None


def _lines() -> Callable[[int], None]:
    last = time.monotonic()

    def advance(points: int) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_EVERY_S:
            last = time.monotonic()
            click.echo(f"compared {points:,} points", err=True)

    return advance
