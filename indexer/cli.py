"""`gmvaluator index`: add, info, verify."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rich_click as click

from gmvaluator.catalogue.records import check_data_set
from gmvaluator.database.place import Place
from gmvaluator.errors import MissingIndex
from gmvaluator.options import (
    collection_option,
    data_option,
    index_location,
    index_option,
    json_option,
    place_option,
    profile_option,
    thumbnails_folder,
)
from gmvaluator.ports import CollectionInfo, VectorStore
from gmvaluator.report import report
from indexer.pipeline import Indexer, Report
from indexer.progress import progress
from indexer.source import Source, open_source

SHOWN_REJECTS = 20


@click.group()
def index() -> None:
    """Build and check the index of training images.

    Example: gmvaluator index add examples/openclipart
    """


@index.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--manifest", type=click.Path(dir_okay=False, path_type=Path), help="CSV; default: SOURCE/manifest.csv.")
@click.option("--data-set", help="Name of the data set these images belong to; default: the folder's name.")
@click.option(
    "--compression", type=click.Choice(["16", "32"]), default="16", show_default=True, help="Of the PQ codes."
)
@click.option(
    "--threads", default=0, type=click.IntRange(0, 256), help="CPU threads of the models; 0 lets torch choose."
)
@place_option
@index_option
@collection_option
@profile_option
@json_option
def add(
    source: Path,
    manifest: Path | None,
    data_set: str | None,
    compression: str,
    threads: int,
    place: Place,
    index_url: str,
    collection: str,
    profile: str,
    as_json: bool,
) -> None:
    """Index the images of folder SOURCE, and build the compressed index.

    Running it again adds what is new and nothing twice; after a stop it goes on where it was.

    Example: gmvaluator index add ./pictures --data-set paintings --data ./gmvaluator-data
    """
    data_set = check_data_set(data_set or default_data_set(source))
    images = open_source(source, manifest)
    target = Target(place.folder, index_url, collection, int(compression), place.database_url)
    with _stopping() as stopping:
        counts, found = _add(images, target, profile, data_set, threads, stopping)
    stopped = counts.read < len(images)
    _print_report(counts, found, stopped, as_json)
    if stopped:
        sys.exit(130)


def default_data_set(source: Path) -> str:
    """The folder's name, with what a data set's name cannot hold replaced by "-"."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", source.resolve().name).strip("-._")[:64] or "images"


@dataclass(frozen=True, slots=True)
class Target:
    """Which collection of which index is meant; compression counts where the collection is made."""

    data: Path
    index_url: str
    collection: str
    compression: int = 16
    database_url: str = field(default="", repr=False)

    @property
    def location(self) -> str | Path:
        return index_location(self.data, self.index_url)

    @property
    def api_key(self) -> str | None:
        return os.environ.get("QDRANT_API_KEY")

    @contextmanager
    def open(self) -> Iterator[VectorStore]:
        from gmvaluator.index.connection import open_store

        store = open_store(self.location, self.collection, api_key=self.api_key, compression=self.compression)
        try:
            yield store
        finally:
            store.close()

    @contextmanager
    def open_existing(self) -> Iterator[VectorStore]:
        """Raises MissingIndex rather than make an empty index."""
        if not self.index_url and not (self.data / "index").is_dir():
            raise MissingIndex(
                f"there is no index in {self.data}: make one with `gmvaluator index add SOURCE --data {self.data}`"
            )
        with self.open() as store:
            yield store


def _add(
    images: Source, target: Target, profile: str, data_set: str, threads: int, stopping: threading.Event
) -> tuple[Report, CollectionInfo]:
    from gmvaluator.catalogue.store import open_catalogue
    from gmvaluator.models.process import prepare_process
    from gmvaluator.models.registry import load_models

    prepare_process()
    with open_catalogue(Place(target.data, target.database_url), write=True) as catalogue, target.open() as store:
        models = load_models(profile, threads=threads or None)
        store.create(models.identity)
        catalogue.add_data_set(data_set)
        indexer = Indexer(models, store, catalogue, thumbnails_folder(target.data), data_set)
        with progress(len(images)) as advance:
            counts = indexer.run(images, advance, stopping.is_set)
        if not stopping.is_set():
            click.echo("building the compressed index", err=True)
            store.build()
        return counts, store.info()


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Set by the first SIGINT or SIGTERM: the batch in hand is finished. A second one stops at once."""
    stopping = threading.Event()

    def on_signal(number: int, frame: object) -> None:  # noqa: ARG001
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        click.echo("stopping as soon as nothing is half done; run the same command again to go on", err=True)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_report(counts: Report, info: CollectionInfo, stopped: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**counts.as_dict(), "stopped": stopped, "collection": _info_dict(info)}))
        return
    for reject in counts.rejects[:SHOWN_REJECTS]:
        click.echo(f"rejected {reject.key}: {reject.reason}")
    if len(counts.rejects) > SHOWN_REJECTS:
        click.echo(f"... and {len(counts.rejects) - SHOWN_REJECTS} more; --json lists all")
    click.echo(
        f"{counts.read:,} files read = {counts.points:,} points + {counts.duplicates:,} duplicates "
        f"+ {len(counts.rejects):,} rejects; collection {info.name!r} holds {info.points:,} points, "
        f"{info.indexed_points:,} of them quantised"
    )


def _info_dict(info: CollectionInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "points": info.points,
        "indexed_points": info.indexed_points,
        "ready": info.ready,
        "metadata": dict(info.metadata),
    }


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
        click.echo(json.dumps(_info_dict(found)))
        return
    profile = found.metadata.get("profile", {})
    click.echo(f"collection {found.name}: {found.points:,} points, {found.indexed_points:,} quantised")
    click.echo(f"profile {profile.get('name')}: recall {profile.get('recall_dim')} dimensions, "
               f"perceptual {profile.get('perceptual_dim')}")  # fmt: skip
    click.echo(f"ready: {'yes' if found.ready else 'no, it is being built'}")


@index.command()
@click.option("--queries", default=200, show_default=True, type=click.IntRange(10, 10_000), help="Sampled queries.")
@click.option("--k", default=50, show_default=True, type=click.IntRange(1, 1000), help="Neighbours compared.")
@click.option("--seed", default=0, type=click.IntRange(0), show_default=True, help="Of the sample.")
@data_option
@index_option
@collection_option
@json_option
def verify(queries: int, k: int, seed: int, data: Path, index_url: str, collection: str, as_json: bool) -> None:
    """Measure what share of the true nearest neighbours the compressed index finds; exits 1 if a point is unquantised.

    The search settings that reach the target are kept in the collection, and the attributor uses them.

    Example: gmvaluator index verify --json
    """
    from gmvaluator.index.verify import verify as measure

    target = Target(data, index_url, collection)
    with target.open_existing():
        figures = measure(target.location, collection, api_key=target.api_key, k=k, sample=queries, seed=seed)
    if as_json:
        command = f"gmvaluator index verify --queries {queries} --k {k} --seed {seed} --json"
        click.echo(json.dumps(report(figures, command), indent=2))
    else:
        for name, value in figures.items():
            click.echo(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    if figures["quantised_share"] < 1:
        click.echo("some points are not quantised: run `gmvaluator index add` again to build the index", err=True)
        sys.exit(1)
