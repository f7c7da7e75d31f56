"""One run of `index add`: open the source, resume, index, group near-duplicates, build and verify."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import rich_click as click

from gmvaluator.catalogue.ownership import Ownership
from gmvaluator.catalogue.store import Catalogue, open_catalogue
from gmvaluator.errors import InvalidInput
from gmvaluator.models.profiles import profile_identity
from gmvaluator.ports import CollectionInfo, VectorStore
from gmvaluator.profile import ProfileIdentity
from gmvaluator.storage.data_folder import thumbnails_folder
from gmvaluator.storage.database import DataLocation
from gmvaluator.training_images import DEFAULT_LIMITS
from indexer.cli.group import group_if_measured
from indexer.cli.progress import progress
from indexer.cli.verify import verify_if_outgrown
from indexer.embeddings.exporting import check_stated, embedded_shards, is_embeddings
from indexer.embeddings.importing import EmbeddingImporter, embeddings_source
from indexer.job import RAY, IndexJob, ModelRuntime
from indexer.opt_outs import OptOutReport, opt_out_report
from indexer.pipeline import Advance, Indexer
from indexer.ray.engine import UnfinishedShard, check_index_shared, index_with_ray
from indexer.ray.worker import WorkerJob
from indexer.report import Counts, LeftOut, LeftOutFile, NothingToIndex, Report
from indexer.resuming import SourceRun
from indexer.sources.item import Shard, Source
from indexer.sources.opening import open_source
from indexer.sources.tar import ENDINGS as TAR_ENDINGS
from indexer.target import Target
from indexer.writing import ShardLog, Writer


@dataclass(frozen=True, slots=True)
class OwnerReport:
    """How many works of the data set have an owner, and what a run found out about them.

    corrected: claims that ended because their record names another owner now. ignored_columns: what was probably meant
    by columns that were not read.
    """

    ownership: Ownership
    corrected: int
    ignored_columns: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {**self.ownership.as_dict(), "corrected": self.corrected, "ignored_columns": self.ignored_columns}


@dataclass(frozen=True, slots=True)
class IndexResult:
    """The outcome of a run and the collection's state after it.

    stopped: whether a signal ended the run early. seconds: durations of `indexing` and of `building`. owners: of the
    data set's works. opt_outs: how opt-outs were obeyed. trusted: whether the collection's recall holds.
    """

    report: Report
    collection: CollectionInfo
    left_out: LeftOutFile
    stopped: bool
    seconds: dict[str, float]
    owners: OwnerReport
    opt_outs: OptOutReport
    trusted: bool = True


LOOKED_FOR = (
    "looked for images, a manifest of them (manifest.csv, or FILE.csv, .jsonl, .parquet), tar shards "
    f"({', '.join(TAR_ENDINGS)}), Parquet with images, and the output of img2dataset"
)
"""What a source may hold, for messages."""


class ShardReader(Protocol):
    """Indexes the rows of one shard: `Indexer` from images, `EmbeddingImporter` from vectors."""

    def run(self, shard: Shard, start: int, log: ShardLog, advance: Advance, stopping: Callable[[], bool]) -> bool:
        """Index rows from `start` on; return False if it stopped before the shard's end."""


def add_source(job: IndexJob, target: Target, runtime: ModelRuntime, stopping: threading.Event) -> IndexResult:
    """Index the job's source into the target collection, and build the index unless `stopping` is set first."""
    with (
        open_catalogue(DataLocation(target.data, target.database_url), write=True) as catalogue,
        target.open() as store,
    ):
        began_at = datetime.now(UTC)
        read, source, identity = _engine(job, target, runtime, store, catalogue)
        store.create(identity)
        if job.bulk:
            store.defer_indexing()
        catalogue.add_data_set(job.data_set)
        left_out = LeftOutFile(target.data / "left-out" / f"{job.data_set}{job.partition.suffix}.jsonl")
        run = SourceRun.begin(catalogue, store, job.data_set, run_name(job, target, identity, source), left_out)
        began, trusted = time.monotonic(), True
        report, read_all = read(run, source, stopping)
        complete = read_all
        seconds = {"indexing": time.monotonic() - began}
        if complete and job.group:
            complete = group_if_measured(store, catalogue, identity.name, stopping)
        if complete:
            click.echo("building the compressed index", err=True)
            began = time.monotonic()
            store.build()
            seconds["building"] = time.monotonic() - began
            trusted = verify_if_outgrown(target, store.info())
        # The rows of an export may be of several data sets.
        of_data_set = None if job.own_data_sets and is_embeddings(job.location) else job.data_set
        owners = OwnerReport(
            catalogue.ownership(of_data_set), catalogue.corrections(job.data_set, began_at), source.ignored.as_dict()
        )
        opt_outs = opt_out_report(catalogue, of_data_set, job.opt_outs, left_out, read_all)
        return IndexResult(report, store.info(), left_out, not complete, seconds, owners, opt_outs, trusted)


def run_name(job: IndexJob, target: Target, identity: ProfileIdentity, source: Source) -> str:
    """Return the name under which the catalogue keeps the progress of this run.

    A run is resumed only by one that leaves out the same rows.
    """
    name = f"{target.collection} {identity.hash[:16]} {source.name}{job.partition.suffix}"
    if job.opt_outs.digest:
        name += f" without {job.opt_outs.digest[:16]}"
    if not job.heed_signals:
        name += " ignoring signals"
    if job.limits != DEFAULT_LIMITS:
        name += f" up to {job.limits.pixels} px, {job.limits.size_bytes} bytes"
    return name


_Read = Callable[[SourceRun, Source, threading.Event], tuple[Report, bool]]
"""A function that indexes a source and returns the report, and whether every row was read."""


def _engine(
    job: IndexJob, target: Target, runtime: ModelRuntime, store: VectorStore, catalogue: Catalogue
) -> tuple[_Read, Source, ProfileIdentity]:
    if runtime.engine != RAY:
        source, reader, identity = _reader(job, target, runtime, store, catalogue)
        return partial(index_shards, reader), source, identity
    source, identity = _source_for_ray(job, target, runtime)
    writer = Writer(store, catalogue, thumbnails_folder(target.data), job.data_set)
    # Workers only read: they get no password of the database, and the list without its lines.
    slim = replace(job, opt_outs=replace(job.opt_outs, lines=()))
    worker_job = WorkerJob(slim, replace(target, database_url=""), runtime, target.api_key, source.digest)
    return partial(_index_with_ray, writer, worker_job), source, identity


def _reader(
    job: IndexJob, target: Target, runtime: ModelRuntime, store: VectorStore, catalogue: Catalogue
) -> tuple[Source, ShardReader, ProfileIdentity]:
    """Return the reader of the source's kind; only a reader of images loads the models."""
    settings = (job.data_set, job.opt_outs, job.heed_signals)
    if is_embeddings(job.location):
        folder = Path(job.location)
        identity = profile_identity(runtime.choice)
        check_stated(folder, identity)
        files = {f"embeddings {shard.number}": shard for shard in embedded_shards(folder)}
        source = job.partition.select(embeddings_source(files, identity))
        return source, EmbeddingImporter(store, catalogue, identity, files, *settings, job.own_data_sets), identity
    # Importing torch takes seconds, which a mistake in the command's arguments need not cost.
    from gmvaluator.models.multi_device import load_on_every_device
    from gmvaluator.models.process_setup import prepare_process

    source = _opened(job)
    prepare_process()
    models = load_on_every_device(runtime.choice, runtime.device, runtime.threads)
    indexer = Indexer(models, store, catalogue, thumbnails_folder(target.data), *settings, job.limits)
    return source, indexer, models.identity


def _source_for_ray(job: IndexJob, target: Target, runtime: ModelRuntime) -> tuple[Source, ProfileIdentity]:
    """Open the source as the workers will. Raises InvalidInput for embeddings, PreconditionFailed."""
    if is_embeddings(job.location):
        raise InvalidInput("embeddings are written, not computed: leave --engine ray out")
    check_index_shared(embedded=not target.index_url)
    return _opened(job), profile_identity(runtime.choice)


def _opened(job: IndexJob) -> Source:
    """Open the shards of the job's source; print what is read where a folder holds images in two forms.

    Raises NothingToIndex if the source is known to be empty.
    """
    source = open_source(job.location, job.manifest)
    if source.rows == 0:
        raise NothingToIndex(f"{job.location} holds nothing to index: {LOOKED_FOR}")
    if source.loose_files:
        click.echo(
            f"{source.name} holds {source.loose_files:,} image files next to its shards: both are read", err=True
        )
    return job.partition.select(source)


@contextmanager
def _reported(rows: int | None) -> Iterator[tuple[Report, Advance]]:
    """Yield a report and the function that adds a batch to it and updates the progress shown."""
    report = Report()
    with progress(rows) as show:

        def advance(counts: Counts, left_out: Sequence[LeftOut]) -> None:
            report.add(counts, left_out)
            show(report.counts)

        yield report, advance


def index_shards(reader: ShardReader, run: SourceRun, source: Source, stopping: threading.Event) -> tuple[Report, bool]:
    """Index shard after shard, each from where the last run stopped; return once every batch begun is durable."""
    with _reported(source.rows) as (report, advance):
        for shard, log in run.shards(source):
            report.add(log.counts)
            read_all = log.finished or reader.run(shard, log.position, log, advance, stopping.is_set)
            report.add_shard(shard, log.counts)
            if not read_all:
                return report, False
            if not log.finished:
                log.finish()
    run.finish(report.counts)
    return report, True


def _index_with_ray(
    writer: Writer, job: WorkerJob, run: SourceRun, source: Source, stopping: threading.Event
) -> tuple[Report, bool]:
    """Do the same as `index_shards`, but embed many shards in parallel on Ray workers."""
    with _reported(source.rows) as (report, advance):
        shards = list(run.shards(source))
        for _, log in shards:
            report.add(log.counts)
        unfinished = [
            UnfinishedShard(number, shard, log.position, log, log.finish)
            for number, (shard, log) in enumerate(shards)
            if not log.finished
        ]
        read_all = index_with_ray(job, unfinished, writer, advance, stopping.is_set)
        for shard, log in shards:
            report.add_shard(shard, log.counts)
        if not read_all:
            return report, False
    run.finish(report.counts)
    return report, True
