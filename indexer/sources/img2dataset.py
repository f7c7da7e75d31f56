"""What img2dataset writes as files: a folder a shard, and a Parquet that also tells what could not be downloaded."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from indexer.sources.columns import Columns, described
from indexer.sources.item import Item, Shard, Source, SourceItem, Unreadable
from indexer.sources.parquet import parquet_rows, parquet_schema
from indexer.sources.roots import Root, read_file

STATS_ENDING = "_stats.json"
_DISALLOWED = "disallowed"
"""What img2dataset's message has where a site's X-Robots-Tag refused."""


def img2dataset_source(root: Root, parquets: Sequence[str], files: Sequence[str]) -> Source:
    """One shard a Parquet; `files` are all names below the root."""
    return Source(root.url, [_shard(root, parquet, files) for parquet in parquets])


def _shard(root: Root, parquet: str, files: Sequence[str]) -> Shard:
    folder = parquet.removesuffix(".parquet") + "/"
    images = {
        posixpath.splitext(name)[0].removeprefix(folder): name
        for name in files
        if name.startswith(folder) and not name.endswith((".json", ".txt"))
    }
    schema, rows = parquet_schema(root, parquet)
    start = partial(_items, root, parquet, images, Columns(schema.names))
    return Shard(parquet, root.fingerprint(parquet), rows, start)


def _items(root: Root, parquet: str, images: Mapping[str, str], columns: Columns, start: int) -> Iterator[Item]:
    for number, row in enumerate(parquet_rows(root, parquet, start), start=start):
        where = f"{parquet}/{number}"
        yield columns.item(row, where, partial(_item, root, where, images))


def _item(root: Root, where: str, images: Mapping[str, str], fields: Mapping[str, str]) -> Item:
    key = fields.get("key") or where
    message = fields.get("error_message") or "no reason given"
    name = images.get(key)
    if _DISALLOWED in message:
        return SourceItem(key, fields.get("url", ""), bytes, **{**described(fields), "opt_out": message[:200]})
    if fields.get("status", "success") != "success":
        return Unreadable(key, f"it was not downloaded: {message[:200]}")
    if name is None:
        return Unreadable(key, "its file is missing")
    return SourceItem(key, root.uri(name), partial(read_file, root, name), **described(fields))
