"""`gmvaluator index group`, and what `index add` does of it at its end."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable

import rich_click as click

from gmvaluator.commands.options import collection_option, index_option, json_option, place_option
from gmvaluator.ports import VectorStore
from gmvaluator.storage.database import DataLocation
from indexer.cli.progress import LINE_EVERY_S, stopping_by_signal
from indexer.near_duplicates import Grouped, Grouper, WorkOrder, default_threshold, measured_threshold
from indexer.target import Target

MAX_UNINDEXED = 20_000
"""Works that may be searched one by one; with more the index is built first."""


@click.command()
@click.option(
    "--threshold",
    type=click.FloatRange(0, 2),
    help="Largest perceptual distance of a near-copy; default: what was measured for the profile.",
)
@place_option
@index_option
@collection_option
@json_option
def group(threshold: float | None, place: DataLocation, index_url: str, collection: str, as_json: bool) -> None:
    """Look for near-copies among works that nobody has looked at yet; `index add` does so at its end.

    Running it again looks at what is new and renames no group; after a stop it goes on where it was.

    Example: gmvaluator index group --data ./gmvaluator-data
    """
    from gmvaluator.catalogue.store import open_catalogue
    from gmvaluator.index.schema import CollectionMetadata

    target = Target(place.folder, index_url, collection, database_url=place.database_url)
    with stopping_by_signal() as stopping, open_catalogue(place) as catalogue, target.open_existing() as store:
        info = store.info()
        profile = CollectionMetadata.from_dict(info.name, info.metadata).profile
        limit = default_threshold(profile) if threshold is None else threshold
        done = group_works(store, catalogue, limit, stopping)
        if done.complete:
            store.build()
    _print_grouped(done, limit, as_json)
    if not done.complete:
        sys.exit(130)


def group_if_measured(store: VectorStore, order: WorkOrder, profile: str, stopping: threading.Event) -> bool:
    """As `index add` ends; a profile without a measured distance is left, and that is said. False if stopped."""
    threshold = measured_threshold(profile)
    if threshold is not None:
        return group_works(store, order, threshold, stopping).complete
    click.echo(
        f"near-copies are left: no distance was measured for profile {profile}; name one by "
        "`gmvaluator index group --threshold`",
        err=True,
    )
    return True


def group_works(store: VectorStore, order: WorkOrder, threshold: float, stopping: threading.Event) -> Grouped:
    """Look for near-copies. Many works are searched fast only once they are indexed, so that is done first.

    What is marked has to be indexed again: build the index afterwards.
    """
    info = store.info()
    if info.points - info.indexed_points > MAX_UNINDEXED:
        click.echo("building the compressed index, to search it for near-copies", err=True)
        store.build()
    return Grouper(store, order, threshold).run(_lines(), stopping.is_set)


def _lines() -> Callable[[Grouped], None]:
    last = time.monotonic()

    def advance(done: Grouped) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_EVERY_S or done.complete:
            last = now
            click.echo(f"near-copies: {done.looked_at:,}/{done.total:,} works, {done.joined:,} near-copies", err=True)

    return advance


def _print_grouped(done: Grouped, threshold: float, as_json: bool) -> None:
    if as_json:
        figures = {"looked_at": done.looked_at, "joined": done.joined, "groups": len(done.groups)}
        click.echo(json.dumps({**figures, "threshold": threshold, "stopped": not done.complete}))
        return
    click.echo(
        f"{done.looked_at:,} works looked at: {done.joined:,} are near-copies in {len(done.groups):,} groups "
        f"(distance at most {threshold})"
    )
