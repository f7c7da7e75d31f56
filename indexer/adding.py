"""`gmvaluator index add`."""

from __future__ import annotations

import json
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import rich_click as click

from gmvaluator.catalogue.records import check_data_set
from gmvaluator.catalogue.store import Catalogue, open_catalogue
from gmvaluator.database.place import Place
from gmvaluator.options import (
    collection_option,
    index_option,
    json_option,
    place_option,
    profile_option,
    thumbnails_folder,
)
from gmvaluator.ports import CollectionInfo, Models, VectorStore
from indexer.counting import Counts, LeftOut, LeftOutFile, Report
from indexer.pipeline import Indexer
from indexer.progress import progress
from indexer.resuming import SourceRun
from indexer.sources.consent import NO_OPT_OUTS, OptOutList
from indexer.sources.item import Source
from indexer.sources.opening import open_source
from indexer.target import Target

SHOWN_LEFT_OUT = 20
_PART = re.compile(r"([0-9]{1,6})/([1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True)
class Part:
    """Worker `index` (from 0) of `count`, each with its own shards of a source."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, _context: click.Context, _parameter: click.Parameter, value: str) -> Part:
        """From `i/n`. Raises BadParameter."""
        found = _PART.fullmatch(value)
        if found is None or int(found[1]) >= int(found[2]):
            raise click.BadParameter(f"{value!r} is no part: give i/n, with i from 0 to n - 1")
        return cls(int(found[1]), int(found[2]))

    @property
    def suffix(self) -> str:
        return "" if self.count == 1 else f".{self.index}-of-{self.count}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to index, as what, and whose images stay out."""

    source: Source
    data_set: str
    part: Part = Part()
    opt_outs: OptOutList = NO_OPT_OUTS
    heed_signals: bool = True


@click.command()
@click.argument("source")
@click.option("--manifest", help="CSV, JSONL or Parquet that names files below SOURCE; default: SOURCE/manifest.csv.")
@click.option("--data-set", help="Name of the data set these images belong to; default: the source's name.")
@click.option(
    "--shards", "part", default="0/1", callback=Part.parse, help="i/n: only this worker's share of the shards."
)
@click.option(
    "--opt-out", type=click.Path(dir_okay=False, path_type=Path), help="File of SHA-256s, keys or URLs to leave out."
)
@click.option("--ignore-signals", is_flag=True, help="Take in images whose source says noai or reserves TDM.")
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
    source: str,
    manifest: str | None,
    data_set: str | None,
    part: Part,
    opt_out: Path | None,
    ignore_signals: bool,
    compression: str,
    threads: int,
    place: Place,
    index_url: str,
    collection: str,
    profile: str,
    as_json: bool,
) -> None:
    """Index the images at SOURCE, and build the compressed index.

    SOURCE is a path or an fsspec URL: a folder of images, a CSV, JSONL or Parquet manifest, WebDataset tar shards,
    Parquet with embedded images, or what img2dataset wrote. Running it again adds what is new and nothing twice; after
    a stop it goes on where it was.

    Example: gmvaluator index add ./pictures --data-set paintings --data ./gmvaluator-data
    """
    wanted = Wanted(
        open_source(source, manifest).part(part.index, part.count),
        check_data_set(data_set or default_data_set(source)),
        part,
        OptOutList.read(opt_out) if opt_out is not None else NO_OPT_OUTS,
        not ignore_signals,
    )
    target = Target(place.folder, index_url, collection, int(compression), place.database_url)
    with _stopping() as stopping:
        report, found, left_out = _add(wanted, target, profile, threads, stopping)
    _print_report(report, found, left_out, stopping.is_set(), as_json)
    if stopping.is_set():
        sys.exit(130)


def default_data_set(source: str) -> str:
    """The last part of the source's name, with what a data set's name cannot hold replaced by "-"."""
    name = Path(source).resolve().name if "://" not in source else PurePosixPath(source).name
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-._")[:64] or "images"


def _add(
    wanted: Wanted, target: Target, profile: str, threads: int, stopping: threading.Event
) -> tuple[Report, CollectionInfo, LeftOutFile]:
    from gmvaluator.models.process import prepare_process
    from gmvaluator.models.registry import load_models

    prepare_process()
    with open_catalogue(Place(target.data, target.database_url), write=True) as catalogue, target.open() as store:
        models = load_models(profile, threads=threads or None)
        store.create(models.identity)
        catalogue.add_data_set(wanted.data_set)
        left_out = LeftOutFile(target.data / "left-out" / f"{wanted.data_set}{wanted.part.suffix}.jsonl")
        report = _index(wanted, target, models, store, catalogue, left_out, stopping)
        if not stopping.is_set():
            click.echo("building the compressed index", err=True)
            store.build()
        return report, store.info(), left_out


def _index(
    wanted: Wanted,
    target: Target,
    models: Models,
    store: VectorStore,
    catalogue: Catalogue,
    left_out: LeftOutFile,
    stopping: threading.Event,
) -> Report:
    """Every shard from where it was left, until `stopping`; returns once all that was begun is durable."""
    name = f"{target.collection} {models.identity.hash[:16]} {wanted.source.name}{wanted.part.suffix}"
    run = SourceRun.begin(catalogue, store, wanted.data_set, name, left_out)
    thumbnails = thumbnails_folder(target.data)
    indexer = Indexer(models, store, catalogue, thumbnails, wanted.data_set, wanted.opt_outs, wanted.heed_signals)
    report = Report()
    with progress(wanted.source.rows) as show:

        def advance(counts: Counts, rows: Sequence[LeftOut]) -> None:
            report.add(counts, rows)
            show(report.counts)

        for shard, log in run.shards(wanted.source):
            report.add(log.counts)
            if log.finished:
                continue
            if not indexer.run(shard, log.position, log, advance, stopping.is_set):
                return report
            log.finish()
    run.finish(report.counts)
    return report


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


def _print_report(report: Report, info: CollectionInfo, file: LeftOutFile, stopped: bool, as_json: bool) -> None:
    if as_json:
        said = {**report.as_dict(), "left_out_file": str(file.path), "stopped": stopped}
        click.echo(json.dumps({**said, "collection": collection_dict(info)}))
        return
    for row in report.left_out[:SHOWN_LEFT_OUT]:
        click.echo(f"{row.kind.replace('_', '-')} {row.key}: {row.reason}")
    counts = report.counts
    if counts.rejects + counts.opt_outs:
        click.echo(f"{file.path} lists all {counts.rejects + counts.opt_outs:,} that were left out")
    click.echo(
        f"{counts.read:,} read = {counts.points:,} points + {counts.duplicates:,} duplicates "
        f"+ {counts.opt_outs:,} opt-outs + {counts.rejects:,} rejects; "
        f"collection {info.name!r} holds {info.points:,} points, {info.indexed_points:,} of them quantised"
    )


def collection_dict(info: CollectionInfo) -> dict[str, Any]:
    """A collection's state as JSON."""
    return {
        "name": info.name,
        "points": info.points,
        "indexed_points": info.indexed_points,
        "ready": info.ready,
        "metadata": dict(info.metadata),
    }
