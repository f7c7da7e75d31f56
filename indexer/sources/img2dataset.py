"""Output of img2dataset: images as files or in tars, and Parquet files that also list failed downloads."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

from gmvaluator.errors import InvalidManifest
from indexer.sources.columns import Columns, described, not_downloaded
from indexer.sources.ignored_columns import IgnoredColumns
from indexer.sources.item import Item, Shard, Source, SourceItem, Unreadable
from indexer.sources.parquet import parquet_rows, parquet_schema, rest_of_shard
from indexer.sources.roots import Root, read_file

STATS_ENDING = "_stats.json"
_NO_IMAGES = (".json", ".txt", ".parquet")


def img2dataset_source(root: Root, parquets: Sequence[str], files: Sequence[str]) -> Source:
    """Return a source with one shard per Parquet file. files: all names below the root."""
    images: dict[str, dict[str, str]] = defaultdict(dict)
    for name in files:
        if not name.endswith(_NO_IMAGES):
            folder, base = posixpath.split(name)
            images[folder][posixpath.splitext(base)[0]] = name
    ignored = IgnoredColumns()
    shards = [_shard(root, name, images[name.removesuffix(".parquet")], ignored) for name in parquets]
    return Source(root.url, shards, ignored)


def failed_downloads(root: Root, parquet: str) -> Shard:
    """Return a shard of the rows of a Parquet file that its tar lacks, because their download failed."""
    try:
        schema, _ = parquet_schema(root, parquet)
    except InvalidManifest as error:
        return _damaged(root, parquet, error)
    return Shard(parquet, root.fingerprint(parquet), None, partial(_failures, root, parquet, Columns(schema.names)))


def _damaged(root: Root, parquet: str, error: InvalidManifest) -> Shard:
    reject = rest_of_shard(parquet, error)
    return Shard(parquet, root.fingerprint(parquet), 1, lambda start: islice(iter([reject]), start, None))


def _failures(root: Root, parquet: str, columns: Columns, start: int) -> Iterator[Item]:
    def item(where: str, fields: Mapping[str, str]) -> Item:
        return not_downloaded(fields.get("key") or where, fields) or _DOWNLOADED

    rows = (
        columns.item(row, where, partial(item, where))
        for number, row in enumerate(parquet_rows(root, parquet, 0))
        for where in [f"{parquet}/{number}"]
    )
    # Positions count the failures alone, so a resumed run reads all rows and skips those it has done.
    try:
        yield from islice((row for row in rows if row is not _DOWNLOADED), start, None)
    except InvalidManifest as error:
        yield rest_of_shard(parquet, error)


_DOWNLOADED = Unreadable("", "it is in the tar")
"""Stands for a row that the tar shard yields."""


def _shard(root: Root, parquet: str, images: Mapping[str, str], ignored: IgnoredColumns) -> Shard:
    try:
        schema, rows = parquet_schema(root, parquet)
    except InvalidManifest as error:
        return _damaged(root, parquet, error)
    columns = Columns(schema.names)
    columns.note_ignored(ignored)
    start = partial(_items, root, parquet, images, columns)
    return Shard(parquet, root.fingerprint(parquet), rows, start)


def _items(root: Root, parquet: str, images: Mapping[str, str], columns: Columns, start: int) -> Iterator[Item]:
    try:
        for number, row in enumerate(parquet_rows(root, parquet, start), start=start):
            where = f"{parquet}/{number}"
            yield columns.item(row, where, partial(_item, root, where, images))
    except InvalidManifest as error:
        yield rest_of_shard(parquet, error)


def _item(root: Root, where: str, images: Mapping[str, str], fields: Mapping[str, str]) -> Item:
    key = fields.get("key") or where
    failed = not_downloaded(key, fields)
    if failed is not None:
        return failed
    name = images.get(key)
    if name is None:
        return Unreadable(key, "its file is missing")
    return SourceItem(key, root.uri(name), partial(read_file, root, name), **described(fields))
