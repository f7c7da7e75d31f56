"""The command `gmvaluator index group`, and the grouping at the end of `index add`."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable

import rich_click as click

from gmvaluator.commands.options import collection_option, index_option, json_option, place_option
from gmvaluator.commands.parameters import FiniteRange
from gmvaluator.ports import VectorStore
from gmvaluator.storage.database import DataLocation
from indexer.cli.progress import LINE_EVERY_S, stopping_by_signal
from indexer.near_duplicates import Grouped, Grouper, WorkOrder, default_threshold, measured_threshold
from indexer.target import Target

MAX_UNINDEXED = 20_000
"""Works without quantised vectors that may be searched exhaustively; with more, the index is built first."""


@click.command()
@click.option(
    "--threshold",
    type=FiniteRange(0, 2),
    help="Largest perceptual distance of a near-duplicate; default: as measured for the profile.",
)
@place_option
@index_option
@collection_option
@json_option
def group(threshold: float | None, place: DataLocation, index_url: str, collection: str, as_json: bool) -> None:
    """Look for near-duplicates among works that were not checked yet; `index add` does so at its end.

    Running it again checks new works and renames no group; after a stop it resumes.

    Example: gmvaluator index group --data ./gmvaluator-data
    """
    from gmvaluator.catalogue.store import open_catalogue
    from gmvaluator.index.schema import CollectionMetadata

    target = Target(place.folder, index_url, collection, database_url=place.database_url)
    with stopping_by_signal() as stopping, open_catalogue(place) as catalogue, target.open_existing() as store:
        info = store.info()
        profile = CollectionMetadata.from_dict(info.name, info.metadata).profile
        limit = default_threshold(profile) if threshold is None else threshold
        result = group_works(store, catalogue, limit, stopping)
        if result.complete:
            store.build()
    _print_grouped(result, limit, as_json)
    if not result.complete:
        sys.exit(130)


def group_if_measured(store: VectorStore, order: WorkOrder, profile: str, stopping: threading.Event) -> bool:
    """Group the works by the profile's measured distance; without one, print a hint. Return False if stopped."""
    threshold = measured_threshold(profile)
    if threshold is not None:
        return group_works(store, order, threshold, stopping).complete
    click.echo(
        f"near-duplicates are not grouped: no distance was measured for profile {profile}; name one by "
        "`gmvaluator index group --threshold`",
        err=True,
    )
    return True


def group_works(store: VectorStore, order: WorkOrder, threshold: float, stopping: threading.Event) -> Grouped:
    """Group near-duplicates; build the index afterwards, as works that are marked have to be indexed again."""
    info = store.info()
    # Searches of many works are fast only in a built index.
    if info.points - info.indexed_points > MAX_UNINDEXED:
        click.echo("building the compressed index, to search it for near-duplicates", err=True)
        store.build()
    return Grouper(store, order, threshold).run(_lines(), stopping.is_set)


def _lines() -> Callable[[Grouped], None]:
    last = time.monotonic()

    def advance(result: Grouped) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_EVERY_S or result.complete:
            last = now
            progress = f"{result.checked:,}/{result.total:,} works checked, {result.joined:,} near-duplicates"
            click.echo(f"near-duplicates: {progress}", err=True)

    return advance


def _print_grouped(result: Grouped, threshold: float, as_json: bool) -> None:
    if as_json:
        figures = {"looked_at": result.checked, "joined": result.joined, "groups": len(result.groups)}
        click.echo(json.dumps({**figures, "threshold": threshold, "stopped": not result.complete}))
        return
    click.echo(
        f"{result.checked:,} works checked: {result.joined:,} are near-duplicates in {len(result.groups):,} groups "
        f"(distance at most {threshold})"
    )
