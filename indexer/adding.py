"""`gmvaluator index add`."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import rich_click as click

from gmvaluator.catalogue.records import check_data_set
from gmvaluator.catalogue.store import Catalogue, open_catalogue
from gmvaluator.database.place import Place
from gmvaluator.index.quantisation import CHOICES, DEFAULT
from gmvaluator.index.schema import DEFAULT_SETTINGS
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.registry import profile_identity
from gmvaluator.options import (
    choice_options,
    collection_option,
    index_option,
    json_option,
    place_option,
    thumbnails_folder,
)
from gmvaluator.ports import CollectionInfo, VectorStore
from gmvaluator.profile import ProfileIdentity
from indexer.counting import Counts, LeftOut, LeftOutFile, Report
from indexer.embeddings.importing import EmbeddingImporter, embeddings_source
from indexer.embeddings.layout import check_stated, embedded_shards, is_embeddings
from indexer.group_cli import group_if_measured
from indexer.pipeline import Advance, Indexer, ShardLog
from indexer.progress import progress
from indexer.resuming import SourceRun
from indexer.settings_options import Chosen, settings_options
from indexer.sources.consent import NO_OPT_OUTS, OptOutList
from indexer.sources.item import Shard, Source
from indexer.sources.opening import open_source
from indexer.stopping import stopping_by_signal
from indexer.target import Target
from indexer.verify_cli import verify_if_outgrown

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

    def of(self, source: Source) -> Source:
        """This worker's shards."""
        return source.part(self.index, self.count)

    @property
    def suffix(self) -> str:
        return "" if self.count == 1 else f".{self.index}-of-{self.count}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to index, as what, whose images stay out, and whether near-copies are looked for."""

    location: str
    manifest: str | None
    data_set: str
    part: Part = Part()
    opt_outs: OptOutList = NO_OPT_OUTS
    heed_signals: bool = True
    own_data_sets: bool = False
    group: bool = True


@dataclass(frozen=True, slots=True)
class Added:
    """What a run did, and what the collection holds after it. seconds: of `indexing` and of `building`."""

    report: Report
    collection: CollectionInfo
    left_out: LeftOutFile
    stopped: bool
    seconds: dict[str, float]


@click.command()
@click.argument("source")
@click.option("--manifest", help="CSV, JSONL or Parquet that names files below SOURCE; default: SOURCE/manifest.csv.")
@click.option(
    "--data-set",
    help="Name of the data set these images belong to; default: the source's name, or what an export says.",
)
@click.option(
    "--shards", "part", default="0/1", callback=Part.parse, help="i/n: only this worker's share of the shards."
)
@click.option(
    "--opt-out", type=click.Path(dir_okay=False, path_type=Path), help="File of SHA-256s, keys or URLs to leave out."
)
@click.option("--ignore-signals", is_flag=True, help="Take in images whose source says noai or reserves TDM.")
@click.option(
    "--quantisation", type=click.Choice(CHOICES), default=DEFAULT, show_default=True, help="Of the vectors searched."
)
@click.option(
    "--threads", default=0, type=click.IntRange(0, 256), help="CPU threads of the models; 0 lets torch choose."
)
@click.option(
    "--device", default="cpu", show_default=True, help="auto, cpu, cuda, cuda:N or mps; auto takes every GPU."
)
@click.option("--group/--no-group", default=True, show_default=True, help="Look for near-copies at the end.")
@settings_options
@place_option
@index_option
@collection_option
@choice_options
@json_option
def add(
    source: str,
    manifest: str | None,
    data_set: str | None,
    part: Part,
    opt_out: Path | None,
    ignore_signals: bool,
    quantisation: str,
    threads: int,
    device: str,
    group: bool,
    chosen: Chosen,
    place: Place,
    index_url: str,
    collection: str,
    choice: ProfileChoice,
    as_json: bool,
) -> None:
    """Index the images at SOURCE, and build the compressed index.

    SOURCE is a path or an fsspec URL: a folder of images, a CSV, JSONL or Parquet manifest, WebDataset tar shards,
    Parquet with embedded images, what img2dataset wrote, or embeddings in clip-retrieval's layout. Running it again
    adds what is new and nothing twice; after a stop it goes on where it was.

    Example: gmvaluator index add ./pictures --data-set paintings --data ./gmvaluator-data
    """
    wanted = Wanted(
        source,
        manifest,
        check_data_set(data_set or default_data_set(source)),
        part,
        OptOutList.read(opt_out) if opt_out is not None else NO_OPT_OUTS,
        not ignore_signals,
        data_set is None,
        group,
    )
    settings = chosen(DEFAULT_SETTINGS)
    target = Target(place.folder, index_url, collection, quantisation, place.database_url, settings)
    with stopping_by_signal() as stopping:
        added = _add(wanted, target, Running(choice, device, threads or None), stopping)
    _print(added, as_json)
    if added.stopped:
        sys.exit(130)


def default_data_set(source: str) -> str:
    """The last part of the source's name, with what a data set's name cannot hold replaced by "-"."""
    name = Path(source).resolve().name if "://" not in source else PurePosixPath(source).name
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-._")[:64] or "images"


@dataclass(frozen=True, slots=True)
class Running:
    """Which models, and how they run; threads: of a CPU, None for torch's choice."""

    choice: ProfileChoice
    device: str
    threads: int | None


class ShardReader(Protocol):
    """What brings a shard into the index."""

    def run(self, shard: Shard, start: int, log: ShardLog, advance: Advance, stopping: Callable[[], bool]) -> bool:
        """False if it was stopped before the shard's end."""


def _add(wanted: Wanted, target: Target, running: Running, stopping: threading.Event) -> Added:
    """Index, and build unless `stopping`."""
    with open_catalogue(Place(target.data, target.database_url), write=True) as catalogue, target.open() as store:
        source, reader, identity = _reader(wanted, target, running, store, catalogue)
        store.create(identity)
        catalogue.add_data_set(wanted.data_set)
        left_out = LeftOutFile(target.data / "left-out" / f"{wanted.data_set}{wanted.part.suffix}.jsonl")
        name = f"{target.collection} {identity.hash[:16]} {source.name}{wanted.part.suffix}"
        run = SourceRun.begin(catalogue, store, wanted.data_set, name, left_out)
        began = time.monotonic()
        report, complete = _index(run, source, reader, stopping)
        seconds = {"indexing": time.monotonic() - began}
        if complete and wanted.group:
            complete = group_if_measured(store, catalogue, identity.name, stopping)
        if complete:
            click.echo("building the compressed index", err=True)
            began = time.monotonic()
            store.build()
            seconds["building"] = time.monotonic() - began
            verify_if_outgrown(target, store.info())
        return Added(report, store.info(), left_out, not complete, seconds)


def _reader(
    wanted: Wanted, target: Target, running: Running, store: VectorStore, catalogue: Catalogue
) -> tuple[Source, ShardReader, ProfileIdentity]:
    """For images with the models loaded, for embeddings without."""
    settings = (wanted.data_set, wanted.opt_outs, wanted.heed_signals)
    if is_embeddings(wanted.location):
        folder = Path(wanted.location)
        identity = profile_identity(running.choice)
        check_stated(folder, identity)
        files = {f"embeddings {shard.number}": shard for shard in embedded_shards(folder)}
        source = wanted.part.of(embeddings_source(files, identity))
        return source, EmbeddingImporter(store, catalogue, identity, files, *settings, wanted.own_data_sets), identity
    from gmvaluator.models.process import prepare_process
    from gmvaluator.models.spread import load_on_every_device

    source = wanted.part.of(open_source(wanted.location, wanted.manifest))
    prepare_process()
    models = load_on_every_device(running.choice, running.device, running.threads)
    indexer = Indexer(models, store, catalogue, thumbnails_folder(target.data), *settings)
    return source, indexer, models.identity


def _index(run: SourceRun, source: Source, reader: ShardReader, stopping: threading.Event) -> tuple[Report, bool]:
    """Every shard from where it was left; returns once all that was begun is durable, and whether that is all."""
    report = Report()
    with progress(source.rows) as show:

        def advance(counts: Counts, rows: Sequence[LeftOut]) -> None:
            report.add(counts, rows)
            show(report.counts)

        for shard, log in run.shards(source):
            report.add(log.counts)
            if log.finished:
                continue
            if not reader.run(shard, log.position, log, advance, stopping.is_set):
                return report, False
            log.finish()
    run.finish(report.counts)
    return report, True


def _print(added: Added, as_json: bool) -> None:
    report, info, file = added.report, added.collection, added.left_out
    if as_json:
        said = {**report.as_dict(), "left_out_file": str(file.path), "stopped": added.stopped, "seconds": added.seconds}
        click.echo(json.dumps({**said, "collection": collection_dict(info)}))
        return
    for row in report.left_out[:SHOWN_LEFT_OUT]:
        click.echo(f"{row.kind.replace('_', '-')} {row.key}: {row.reason}")
    counts = report.counts
    if counts.left_out:
        click.echo(f"{file.path} lists all {counts.left_out:,} that were left out")
    click.echo(
        f"{counts.read:,} read = {counts.points:,} points + {counts.duplicates:,} duplicates "
        f"+ {counts.opt_outs:,} opt-outs + {counts.rejects:,} rejects + {counts.removed:,} removed before; "
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
