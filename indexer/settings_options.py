"""How a collection is kept, as options of the commands that make and rebuild one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import wraps
from typing import Any, TypeVar, cast

import rich_click as click

from gmvaluator.index.schema import IndexSettings

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
