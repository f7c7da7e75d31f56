"""`gmvaluator index add`.

How a collection is kept, as options of the commands that make and rebuild one.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

import rich_click as click

from gmvaluator.catalogue.records import check_data_set
from gmvaluator.commands.options import choice_options, collection_option, index_option, json_option, place_option
from gmvaluator.index.engine.quantisation import CHOICES
from gmvaluator.index.schema import DEFAULT, DEFAULT_SETTINGS, IndexSettings
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.ports import CollectionInfo
from gmvaluator.storage.database import DataLocation
from indexer.cli.progress import stopping_by_signal
from indexer.cli.run import ENGINES, THREADS, Added, Part, Running, Wanted, add_source
from indexer.sources.consent import NO_OPT_OUTS, OptOutList
from indexer.target import Target

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--hnsw-m", type=click.IntRange(4, 512), help="Edges per node of the graph; 16 where none is said."),
    click.option("--hnsw-ef-construct", type=click.IntRange(8, 10_000), help="Candidates for each edge; 128."),
    click.option("--on-disk/--in-memory", "on_disk", default=None, help="Where original vectors are; on disk."),
    click.option("--shard-number", type=click.IntRange(1, 1024), help="Shards of a Qdrant cluster's collection."),
    click.option("--replication-factor", type=click.IntRange(1, 64), help="Copies of each shard of a cluster."),
    click.option("--write-consistency-factor", type=click.IntRange(1, 64), help="Copies that confirm each write."),
)


def settings_options(command: Command) -> Command:
    """The options of `IndexSettings`, handed over as one `chosen`: a function that applies them to other settings."""

    @wraps(command)
    def with_settings(*args: Any, **options: Any) -> Any:
        given = {one.name: options.pop(one.name) for one in fields(IndexSettings)}
        said = {name: value for name, value in given.items() if value is not None}
        return command(*args, chosen=lambda settings: replace(settings, **said), **options)

    decorated = cast(Any, with_settings)
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return cast(Command, decorated)


Chosen = Callable[[IndexSettings], IndexSettings]

SHOWN_LEFT_OUT = 20


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
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default=THREADS,
    show_default=True,
    help="What embeds the images.",
)
@click.option("--ray-workers", default=0, type=click.IntRange(0, 4096), help="Of Ray; 0: one a CPU, or one a GPU.")
@click.option("--bulk", is_flag=True, help="Let a server that is indexed already index nothing until the end.")
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
    engine: str,
    ray_workers: int,
    bulk: bool,
    group: bool,
    chosen: Chosen,
    place: DataLocation,
    index_url: str,
    collection: str,
    choice: ProfileChoice,
    as_json: bool,
) -> None:
    """Index the images at SOURCE, and build the compressed index.

    SOURCE is a path or an fsspec URL: a folder of images, a CSV, JSONL or Parquet manifest, WebDataset tar shards,
    Parquet with embedded images, what img2dataset wrote, or embeddings in clip-retrieval's layout. Running it again
    adds what is new and nothing twice; after a stop it goes on where it was. Exits with 1 if a collection that was
    verified has grown by a fifth and its recall is below the floor now.

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
        bulk,
    )
    settings = chosen(DEFAULT_SETTINGS)
    target = Target(place.folder, index_url, collection, quantisation, place.database_url, settings)
    with stopping_by_signal() as stopping:
        added = add_source(wanted, target, Running(choice, device, threads or None, engine, ray_workers), stopping)
    _print(added, as_json)
    if added.stopped:
        sys.exit(130)
    if not added.trusted:
        sys.exit(1)


def default_data_set(source: str) -> str:
    """The last part of the source's name, with what a data set's name cannot hold replaced by "-"."""
    name = Path(source).resolve().name if "://" not in source else PurePosixPath(source).name
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-._")[:64] or "images"


def _print(added: Added, as_json: bool) -> None:
    report, info, file, standing = added.report, added.collection, added.left_out, added.still_indexed
    if as_json:
        said = {**report.as_dict(), "left_out_file": str(file.path), "stopped": added.stopped, "seconds": added.seconds}
        said["still_indexed"] = None if standing is None else {"works": standing.works, "file": str(standing.file)}
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
    if standing is not None:
        click.echo(
            f"{standing.works:,} works whose owners opted out were indexed before, and are found and paid still: "
            f"take them out by `gmvaluator index remove --from {standing.file}`"
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
