"""Parquet files with images in a column: Hugging Face's `image` struct, plain bytes, or lists of either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa

from gmvaluator.errors import InvalidManifest
from indexer.sources.columns import Columns, described, not_downloaded
from indexer.sources.ignored_columns import IgnoredColumns
from indexer.sources.item import Item, Shard, Source, SourceItem, Unreadable
from indexer.sources.parquet import holds_bytes, is_list, parquet_rows, parquet_schema, rest_of_shard
from indexer.sources.roots import Root, read_file

_IMAGE_COLUMNS = (
    "image", "images", "jpg", "jpeg", "png", "webp", "img", "bytes", "image_bytes", "content", "image_content"
)  # fmt: skip


def image_column(schema: pa.Schema) -> str | None:
    """Return the name of the column that holds images, or None."""
    lower = {name.lower(): name for name in reversed(schema.names)}
    named = [lower[name] for name in _IMAGE_COLUMNS if name in lower]
    return next((name for name in named if holds_bytes(schema.field(name).type)), None)


def have_images(root: Root, names: Sequence[str]) -> bool:
    """Return whether the first of these files that can be read has a column of images.

    Raises InvalidManifest if none can be read.
    """
    error: InvalidManifest | None = None
    for name in names:
        try:
            schema, _ = parquet_schema(root, name)
        except InvalidManifest as failure:
            error = error or failure
        else:
            return image_column(schema) is not None
    if error is not None:
        raise error
    return False


def unread_columns(root: Root, name: str) -> str:
    """Return the columns of a file, with their types, that have a name of images and hold none."""
    schema, _ = parquet_schema(root, name)
    return ", ".join(f"{field.name}: {field.type}" for field in schema if field.name.lower() in _IMAGE_COLUMNS)


def images_source(root: Root, names: Sequence[str]) -> Source:
    """Return a source of Parquet files with embedded images, one shard per file; one that is damaged is a reject.

    Raises InvalidManifest if no file can be read, or one has other columns than its neighbours.
    """
    have_images(root, names)
    ignored = IgnoredColumns()
    return Source(root.url, [_shard(root, name, ignored) for name in names], ignored)


def _shard(root: Root, name: str, ignored: IgnoredColumns) -> Shard:
    try:
        schema, rows = parquet_schema(root, name)
    except InvalidManifest as error:
        reject = rest_of_shard(name, error)
        return Shard(name, root.fingerprint(name), 1, lambda start: islice(iter([reject]), start, None))
    column = image_column(schema)
    if column is None:
        raise InvalidManifest(f"{root.uri(name)} has no column of images, as its neighbours have: move it elsewhere")
    columns = Columns(schema.names)
    columns.note_ignored(ignored)
    if is_list(schema.field(column).type):
        # The number of images is not the number of rows, and positions count images.
        start = partial(_from, root, name, column, columns)
        return Shard(name, root.fingerprint(name), None, start)
    return Shard(name, root.fingerprint(name), rows, partial(_items, root, name, column, columns))


def _from(root: Root, name: str, column: str, columns: Columns, start: int) -> Iterator[Item]:
    return islice(_items(root, name, column, columns, 0), start, None)


def _items(root: Root, name: str, column: str, columns: Columns, start: int) -> Iterator[Item]:
    try:
        for number, row in enumerate(parquet_rows(root, name, start), start=start):
            cell = row.pop(column)
            images = cell if isinstance(cell, list) else [cell]
            for position, image in enumerate(images or [None]):
                # The first image has the key of its row.
                suffix = f"/{position}" if position else ""
                item = partial(_item, root, name, number, image, suffix)
                yield columns.item(row, f"{name} row {number}", item)
    except InvalidManifest as error:
        yield rest_of_shard(name, error)


def _item(root: Root, name: str, number: int, image: Any, suffix: str, fields: dict[str, str]) -> Item:
    data, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
    # A path inside the struct is only a name: many data sets write the same one in every row.
    key = (fields.get("key") or f"{name}/{number}") + suffix
    failed = not_downloaded(key, fields)
    if failed is not None:
        return failed
    if isinstance(data, bytes):
        return SourceItem(key, f"{root.uri(name)}#{number}{suffix}", partial(bytes, data), **described(fields))
    if path and not root.refusal(path):
        return SourceItem(key, root.uri(path), partial(read_file, root, path), **described(fields))
    return Unreadable(key, f"row {number} of {name} holds no image")
