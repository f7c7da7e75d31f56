"""One run of `index add`: open, read from where it was left, group, build and check."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import rich_click as click

from gmvaluator.catalogue.store import Catalogue, open_catalogue
from gmvaluator.errors import InvalidInput
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.profiles import profile_identity
from gmvaluator.ports import CollectionInfo, VectorStore
from gmvaluator.profile import ProfileIdentity
from gmvaluator.storage.data_folder import thumbnails_folder
from gmvaluator.storage.database import DataLocation
from indexer.cli.group import group_if_measured
from indexer.cli.progress import progress
from indexer.cli.verify import verify_if_outgrown
from indexer.embeddings.exporting import check_stated, embedded_shards, is_embeddings
from indexer.embeddings.importing import EmbeddingImporter, embeddings_source
from indexer.pipeline import Advance, Indexer
from indexer.ray.engine import OpenShard, check_place, index_with_ray
from indexer.ray.worker import Job
from indexer.report import Counts, LeftOut, LeftOutFile, Report, StillIndexed, still_indexed
from indexer.resuming import SourceRun
from indexer.sources.consent import NO_OPT_OUTS, OptOutList
from indexer.sources.item import Shard, Source
from indexer.sources.opening import open_source
from indexer.target import Target
from indexer.writing import ShardLog, Writer

THREADS, RAY = ENGINES = ("threads", "ray")
"""What embeds: threads of this process, or workers of Ray."""

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
    """What to index, as what, and whose images stay out.

    group: whether near-copies are looked for at the end. bulk: whether a server's indexing waits until then.
    """

    location: str
    manifest: str | None
    data_set: str
    part: Part = Part()
    opt_outs: OptOutList = NO_OPT_OUTS
    heed_signals: bool = True
    own_data_sets: bool = False
    group: bool = True
    bulk: bool = False


@dataclass(frozen=True, slots=True)
class Added:
    """What a run did, and what the collection holds after it. seconds: of `indexing` and of `building`.

    still_indexed: what it left out as opted out and an earlier run took in.
    """

    report: Report
    collection: CollectionInfo
    left_out: LeftOutFile
    stopped: bool
    seconds: dict[str, float]
    still_indexed: StillIndexed | None = None
    trusted: bool = True


@dataclass(frozen=True, slots=True)
class Running:
    """Which models, and how they run; threads: of a CPU, None for torch's choice. engine: one of `ENGINES`."""

    choice: ProfileChoice
    device: str
    threads: int | None
    engine: str = THREADS
    ray_workers: int = 0


class ShardReader(Protocol):
    """What brings a shard into the index."""

    def run(self, shard: Shard, start: int, log: ShardLog, advance: Advance, stopping: Callable[[], bool]) -> bool:
        """False if it was stopped before the shard's end."""


def add_source(wanted: Wanted, target: Target, running: Running, stopping: threading.Event) -> Added:
    """Index, and build unless `stopping`."""
    with (
        open_catalogue(DataLocation(target.data, target.database_url), write=True) as catalogue,
        target.open() as store,
    ):
        read, source, identity = _engine(wanted, target, running, store, catalogue)
        store.create(identity)
        if wanted.bulk:
            store.defer_indexing()
        catalogue.add_data_set(wanted.data_set)
        left_out = LeftOutFile(target.data / "left-out" / f"{wanted.data_set}{wanted.part.suffix}.jsonl")
        name = f"{target.collection} {identity.hash[:16]} {source.name}{wanted.part.suffix}"
        if wanted.opt_outs.digest:  # rows that a run without this list took in are to be read again
            name += f" without {wanted.opt_outs.digest[:16]}"
        run = SourceRun.begin(catalogue, store, wanted.data_set, name, left_out)
        began, trusted = time.monotonic(), True
        report, complete = read(run, source, stopping)
        seconds = {"indexing": time.monotonic() - began}
        if complete and wanted.group:
            complete = group_if_measured(store, catalogue, identity.name, stopping)
        if complete:
            click.echo("building the compressed index", err=True)
            began = time.monotonic()
            store.build()
            seconds["building"] = time.monotonic() - began
            trusted = verify_if_outgrown(target, store.info())
        standing = still_indexed(catalogue, wanted.data_set, wanted.opt_outs, left_out)
        return Added(report, store.info(), left_out, not complete, seconds, standing, trusted)


_Read = Callable[[SourceRun, Source, threading.Event], tuple[Report, bool]]
"""Indexes a source; what came of it, and whether that is all."""


def _engine(
    wanted: Wanted, target: Target, running: Running, store: VectorStore, catalogue: Catalogue
) -> tuple[_Read, Source, ProfileIdentity]:
    if running.engine != RAY:
        source, reader, identity = _reader(wanted, target, running, store, catalogue)
        return partial(_index, reader), source, identity
    source, identity = _opened_for_ray(wanted, target, running)
    writer = Writer(store, catalogue, thumbnails_folder(target.data), wanted.data_set)
    job = _job(wanted, target, running, source)
    return partial(_index_by_ray, writer, job, running.ray_workers), source, identity


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
    from gmvaluator.models.multi_device import load_on_every_device
    from gmvaluator.models.process_setup import prepare_process

    source = wanted.part.of(open_source(wanted.location, wanted.manifest))
    prepare_process()
    models = load_on_every_device(running.choice, running.device, running.threads)
    indexer = Indexer(models, store, catalogue, thumbnails_folder(target.data), *settings)
    return source, indexer, models.identity


def _index(reader: ShardReader, run: SourceRun, source: Source, stopping: threading.Event) -> tuple[Report, bool]:
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


def _opened_for_ray(wanted: Wanted, target: Target, running: Running) -> tuple[Source, ProfileIdentity]:
    """The source as the workers will open it. Raises InvalidInput for embeddings, PreconditionFailed."""
    if is_embeddings(wanted.location):
        raise InvalidInput("embeddings are written, not computed: leave --engine ray out")
    check_place(embedded=not target.index_url)
    return wanted.part.of(open_source(wanted.location, wanted.manifest)), profile_identity(running.choice)


def _job(wanted: Wanted, target: Target, running: Running, source: Source) -> Job:
    """Without the database's password: workers write nothing."""
    return Job(
        wanted.location,
        wanted.manifest,
        wanted.data_set,
        wanted.opt_outs,
        wanted.heed_signals,
        replace(target, database_url=""),
        target.api_key,
        running.choice,
        running.device,
        running.threads,
        wanted.part.index,
        wanted.part.count,
        source.digest,
    )


def _index_by_ray(
    writer: Writer, job: Job, workers: int, run: SourceRun, source: Source, stopping: threading.Event
) -> tuple[Report, bool]:
    """As `_index`, many shards at once."""
    report = Report()
    with progress(source.rows) as show:

        def advance(counts: Counts, rows: Sequence[LeftOut]) -> None:
            report.add(counts, rows)
            show(report.counts)

        unfinished = []
        for number, (shard, log) in enumerate(run.shards(source)):
            report.add(log.counts)
            if not log.finished:
                unfinished.append(OpenShard(number, shard, log.position, log, log.finish))
        if not index_with_ray(job, unfinished, writer, workers, advance, stopping.is_set):
            return report, False
    run.finish(report.counts)
    return report, True
