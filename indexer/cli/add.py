"""The command `gmvaluator index add`, and the options of index settings that `index rebuild` shares."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, TypeVar, cast

import rich_click as click

from gmvaluator.catalogue.records import check_data_set
from gmvaluator.commands.options import (
    ADVANCED,
    choice_options,
    collection_option,
    index_option,
    json_option,
    place_option,
    with_advanced_panel,
)
from gmvaluator.commands.parameters import FILE
from gmvaluator.index.engine.quantisation import CHOICES
from gmvaluator.index.schema import DEFAULT_QUANTISATION, DEFAULT_SETTINGS, IndexSettings
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.ports import CollectionInfo
from gmvaluator.storage.database import DataLocation
from gmvaluator.text import printable
from gmvaluator.training_images import LIMIT_OF_PIXELS, MAX_BYTES, MAX_PIXELS, TrainingLimits
from indexer.cli.progress import stopping_by_signal
from indexer.cli.run import LOOKED_FOR, IndexResult, add_source
from indexer.job import ENGINES, THREADS, IndexJob, ModelRuntime, Partition
from indexer.opt_outs import NO_OPT_OUTS, OptOutList, OptOutReport
from indexer.pipeline import READERS
from indexer.report import Counts, NothingToIndex
from indexer.target import Target

Command = TypeVar("Command", bound=Callable[..., Any])
SettingsChange = Callable[[IndexSettings], IndexSettings]
"""Returns index settings with the values that were given as options."""

SHOWN_LEFT_OUT = 20
"""Rows left out that the command prints; the file lists all of them."""

_FORMS = {"shards": "in shards", "image_files": "image files next to them"}
"""Words for the forms that the counts of a mixed source are divided by."""

_PARTITION = re.compile(r"([0-9]{1,6})/([1-9][0-9]{0,5})")


def parse_partition(_context: click.Context, _parameter: click.Parameter, value: str) -> Partition:
    """Parse `i/n`. Raises BadParameter."""
    match = _PARTITION.fullmatch(value)
    if match is None or int(match[1]) >= int(match[2]):
        raise click.BadParameter(f"{value!r} is no part: give i/n, with i from 0 to n - 1")
    return Partition(int(match[1]), int(match[2]))


def _advanced(*names: str, **settings: Any) -> Callable[[Any], Any]:
    """Return the decorator of an option that the help shows below the others."""
    return click.option(*names, panel=ADVANCED, **settings)


_JOB_OPTIONS = (
    click.argument("source"),
    click.option(
        "--manifest", help="CSV, JSONL or Parquet that names files below SOURCE; default: SOURCE/manifest.csv."
    ),
    click.option(
        "--data-set",
        help="Name of the data set these images belong to; default: the source's name, or what an export says.",
    ),
    click.option(
        "--shards",
        "partition",
        default="0/1",
        callback=parse_partition,
        help="i/n: index only share i (from 0) of n of the shards.",
    ),
    click.option(
        "--opt-out",
        type=FILE,
        help="File of SHA-256s, keys or URLs to leave out.",
    ),
    click.option("--strict", is_flag=True, help="Exit with 1 if an entry of the --opt-out list names nothing."),
    click.option("--ignore-signals", is_flag=True, help="Index images whose source says noai or reserves TDM."),
    click.option(
        "--max-pixels",
        type=click.IntRange(1, LIMIT_OF_PIXELS),
        default=MAX_PIXELS,
        show_default=True,
        help="Pixels of an image; a quarter for WebP, AVIF and JPEG 2000.",
    ),
    click.option(
        "--max-bytes",
        type=click.IntRange(1, MAX_BYTES),
        default=MAX_BYTES,
        show_default=True,
        help="Bytes of an image's file.",
    ),
    click.option("--bulk", is_flag=True, help="Defer the indexing of a server until all images are written."),
    click.option("--group/--no-group", default=True, show_default=True, help="Look for near-duplicates at the end."),
)
_TARGET_OPTIONS = (
    click.option(
        "--quantisation",
        type=click.Choice(CHOICES),
        default=DEFAULT_QUANTISATION,
        show_default=True,
        help="Compression of the vectors that are searched.",
    ),
)
_RUNTIME_OPTIONS = (
    _advanced(
        "--threads",
        default=0,
        type=click.IntRange(0, 256),
        help="CPU threads of the models; 0 lets torch choose.",
    ),
    _advanced(
        "--device",
        default="cpu",
        show_default=True,
        help="auto, cpu, cuda, cuda:N or mps; auto takes every GPU.",
    ),
    _advanced(
        "--engine",
        type=click.Choice(ENGINES),
        default=THREADS,
        show_default=True,
        help="Embed the images in threads of this process, or in workers of Ray.",
    ),
    _advanced(
        "--ray-workers",
        default=0,
        type=click.IntRange(0, 4096),
        help="Workers of Ray; 0: one per CPU, or one per GPU.",
    ),
)
_SETTINGS_OPTIONS = (
    _advanced("--hnsw-m", type=click.IntRange(4, 512), help="Edges per node of the graph; default: 16."),
    _advanced(
        "--hnsw-ef-construct",
        type=click.IntRange(8, 10_000),
        help="Candidates for each edge; default: 128.",
    ),
    _advanced(
        "--on-disk/--in-memory",
        "on_disk",
        default=None,
        help="Where original vectors are stored; default: on disk.",
    ),
    _advanced("--shard-number", type=click.IntRange(1, 1024), help="Shards of a Qdrant cluster's collection."),
    _advanced("--replication-factor", type=click.IntRange(1, 64), help="Copies of each shard of a cluster."),
    _advanced("--write-consistency-factor", type=click.IntRange(1, 64), help="Copies that confirm each write."),
)


def settings_options(command: Command) -> Command:
    """Add the options of `IndexSettings`; pass them on as one `change`: SettingsChange."""

    @wraps(command)
    def with_settings(*args: Any, **options: Any) -> Any:
        values = {field.name: options.pop(field.name) for field in fields(IndexSettings)}
        given = {name: value for name, value in values.items() if value is not None}
        return command(*args, change=lambda settings: replace(settings, **given), **options)

    return cast(Command, _with(_SETTINGS_OPTIONS, with_settings))


def job_options(command: Command) -> Command:
    """Add SOURCE and the options that say what to index; pass them on as one `job`: IndexJob."""

    @wraps(command)
    def with_job(
        *args: Any,
        source: str,
        manifest: str | None,
        data_set: str | None,
        partition: Partition,
        opt_out: Path | None,
        strict: bool,
        ignore_signals: bool,
        group: bool,
        bulk: bool,
        max_pixels: int,
        max_bytes: int,
        **options: Any,
    ) -> Any:
        job = IndexJob(
            source,
            manifest,
            check_data_set(data_set or default_data_set(source)),
            partition,
            OptOutList.read(opt_out) if opt_out is not None else NO_OPT_OUTS,
            heed_signals=not ignore_signals,
            own_data_sets=data_set is None,
            group=group,
            bulk=bulk,
            limits=TrainingLimits(max_pixels, max_bytes),
            strict=strict,
        )
        return command(*args, job=job, **options)

    return cast(Command, _with(_JOB_OPTIONS, with_job))


def target_options(command: Command) -> Command:
    """Add the options that name a collection and how it is created; pass them on as one `target`: Target."""

    @wraps(command)
    def with_target(
        *args: Any,
        quantisation: str,
        change: SettingsChange,
        place: DataLocation,
        index_url: str,
        collection: str,
        **options: Any,
    ) -> Any:
        settings = change(DEFAULT_SETTINGS)
        target = Target(place.folder, index_url, collection, quantisation, place.database_url, settings)
        return command(*args, target=target, **options)

    located = settings_options(place_option(index_option(collection_option(with_target))))
    return cast(Command, _with(_TARGET_OPTIONS, located))


def runtime_options(command: Command) -> Command:
    """Add the options of the models and how they run; pass them on as one `runtime`: ModelRuntime."""

    @wraps(command)
    def with_runtime(
        *args: Any, choice: ProfileChoice, device: str, threads: int, engine: str, ray_workers: int, **options: Any
    ) -> Any:
        runtime = ModelRuntime(choice, device, threads or None, engine, ray_workers)
        return command(*args, runtime=runtime, **options)

    return cast(Command, _with(_RUNTIME_OPTIONS, choice_options(with_runtime)))


def _with(options: tuple[Callable[[Any], Any], ...], command: Callable[..., Any]) -> Any:
    """Add options to a command, in the order in which its help lists them."""
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@with_advanced_panel
@job_options
@runtime_options
@target_options
@json_option
def add(job: IndexJob, runtime: ModelRuntime, target: Target, as_json: bool) -> None:
    """Index the images at SOURCE, and build the compressed index.

    SOURCE is a path or an fsspec URL: a folder of images, a CSV, JSONL or Parquet manifest, WebDataset tar shards,
    Parquet with embedded images, the output of img2dataset, or embeddings in clip-retrieval's layout. A manifest says
    whose the images are, for example:

    \b
        file_name,owner_id,title,license
        cats/007.png,ada,Cat on a chair,CC-BY-4.0

    Running it again adds what is new and nothing twice; after a stop it resumes. Exits with 1 if nothing of the source
    could be indexed, if a collection that was verified has grown by a fifth and its recall is now below the floor, and,
    with --strict, if an entry of the opt-out list names nothing.

    Example: gmvaluator index add ./pictures --data-set paintings --data ./gmvaluator-data
    """
    try:
        with stopping_by_signal() as stopping:
            result = add_source(job, target, runtime, stopping)
    except NothingToIndex as error:
        click.echo(f"gmvaluator: {error}", err=True)
        sys.exit(1)
    _print(result, as_json)
    if result.stopped:
        _leave(130)
    if nothing_usable(result.report.counts, job.partition):
        click.echo(f"gmvaluator: no row of {job.location} could be indexed: {LOOKED_FOR}", err=True)
        sys.exit(1)
    if not result.trusted or (job.strict and result.opt_outs.unmatched is not None):
        sys.exit(1)


def _leave(code: int) -> NoReturn:
    """Exit; at once if a thread still waits for a source that does not answer, for which Python would wait too."""
    if any(thread.name.startswith(READERS) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def nothing_usable(counts: Counts, partition: Partition) -> bool:
    """Return whether every row was a reject, or there was none; a partition of a source may well have none."""
    return counts.read == counts.rejects and (counts.read > 0 or partition.count == 1)


def default_data_set(source: str) -> str:
    """Return the last part of the source's name, with characters that a data set's name cannot hold replaced by "-"."""
    name = Path(source).resolve().name if "://" not in source else PurePosixPath(source).name
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-._")[:64] or "images"


def _print(result: IndexResult, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_as_dict(result)))
        return
    report, info, file = result.report, result.collection, result.left_out
    for row in report.left_out[:SHOWN_LEFT_OUT]:
        click.echo(f"{row.kind.replace('_', '-')} {row.key}: {row.reason}")
    counts = report.counts
    if counts.first_frames:
        click.echo(f"{counts.first_frames:,} files have several frames or pages: the first of each was indexed")
    if counts.left_out:
        click.echo(f"{file.path} lists all {counts.left_out:,} that were left out")
    for form, part in report.by_form().items():
        click.echo(f"{_FORMS[form]}: {part}")
    click.echo(
        f"{counts}; collection {info.name!r} holds {info.points:,} points, {info.indexed_points:,} of them quantised"
    )
    click.echo(str(result.owners.ownership))
    if result.owners.corrected:
        click.echo(
            f"{result.owners.corrected:,} claims ended, as their rows name another owner now, who is paid from now on; "
            "`gmvaluator rights show WORK` shows the former ones"
        )
    for column, meant in result.owners.ignored_columns.items():
        click.echo(f"column {printable(column)!r} was not read: did you mean {meant}?")
    for line in _opt_out_lines(result.opt_outs):
        click.echo(line)


def _opt_out_lines(opt_outs: OptOutReport) -> Iterator[str]:
    """Yield what to tell about opt-outs."""
    unmatched, still = opt_outs.unmatched, opt_outs.still_indexed
    if unmatched is not None:
        yield from unmatched.first
        yield (
            f"{unmatched.entries:,} entries of the opt-out list name nothing that was read or is indexed; "
            f"{unmatched.file} lists them"
        )
    if opt_outs.shared_keys:
        yield (
            f"{len(opt_outs.shared_keys):,} keys of the opt-out list are of several records: those that were read were "
            "left out, and those that were indexed before stay; name the one that is meant by its URL or SHA-256; the "
            f"first key is {opt_outs.shared_keys[0]}"
        )
    if still is not None and still.works:
        yield (
            f"{still.works:,} works whose owners opted out were indexed before, and are found and paid "
            f"still: take them out by `gmvaluator index remove --from {still.file}`"
        )
    if still is not None and still.shared:
        yield (
            f"{still.shared:,} works are opted out by one of their records and not by another, and stay: "
            f"{still.shared_file} lists them"
        )


def _as_dict(result: IndexResult) -> dict[str, Any]:
    opt_outs = result.opt_outs
    return {
        **result.report.as_dict(),
        "left_out_file": str(result.left_out.path),
        "owners": result.owners.as_dict(),
        "stopped": result.stopped,
        "seconds": result.seconds,
        "still_indexed": None if opt_outs.still_indexed is None else opt_outs.still_indexed.as_dict(),
        "opt_outs_unmatched": None if opt_outs.unmatched is None else opt_outs.unmatched.as_dict(),
        "opt_out_keys_shared": list(opt_outs.shared_keys[:SHOWN_LEFT_OUT]),
        "collection": collection_dict(result.collection),
    }


def collection_dict(info: CollectionInfo) -> dict[str, Any]:
    """Return a collection's state as JSON."""
    return {
        "name": info.name,
        "points": info.points,
        "indexed_points": info.indexed_points,
        "ready": info.ready,
        "metadata": dict(info.metadata),
    }
