"""Parquet files: rows of metadata, and images in a column (Hugging Face's `image` struct, or plain bytes)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gmvaluator.errors import InvalidManifest
from gmvaluator.images import MAX_IMAGE_BYTES
from gmvaluator.training_images import MAX_BYTES
from indexer.sources.columns import Columns, described, not_downloaded
from indexer.sources.item import Item, Shard, Source, SourceItem, Unreadable
from indexer.sources.roots import Root, read_file

ROWS_AT_ONCE = 64
"""Rows that are read into memory together, at most."""

FILES_AT_ONCE = 6
"""Files of the largest accepted size that fit into the memory for the rows that are read together."""

MAX_EXPANSION = 100
"""Limit of a large column's size in memory divided by its stored size."""

_IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img", "bytes", "image_bytes", "content", "image_content")


def parquet_schema(root: Root, name: str) -> tuple[pa.Schema, int]:
    """Return the columns and the number of rows. Raises InvalidManifest if the file is no Parquet."""
    with _opened(root, name) as file:
        return file.schema_arrow, file.metadata.num_rows


def parquet_rows(root: Root, name: str, skip: int, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield rows as dictionaries from row `skip` on; row groups before it are not read."""
    with _opened(root, name) as file:
        groups, first = _groups_from(file, skip)
        if not groups:
            return
        row = first
        for group in groups:
            size = _rows_at_once(file.metadata.row_group(group), f"row group {group} of {root.uri(name)}")
            for batch in file.iter_batches(size, row_groups=[group], columns=columns):
                cells = [_bounded(column) for column in batch.columns]
                for values in pa.RecordBatch.from_arrays(cells, schema=batch.schema).to_pylist():
                    if row >= skip:
                        yield values
                    row += 1


def _rows_at_once(group: pq.RowGroupMetaData, where: str) -> int:
    """Return how many rows fit into memory together.

    Each row is assumed to hold a whole column: a dictionary stores a cell once that all rows repeat. Raises
    InvalidManifest if a cell must be over the limit, or if the group was built to fill the memory.
    """
    memory_bytes = FILES_AT_ONCE * MAX_IMAGE_BYTES
    columns = [group.column(number) for number in range(group.num_columns)]
    for column in columns:
        stored, largest = column.total_compressed_size, column.total_uncompressed_size
        if largest > max(memory_bytes, MAX_EXPANSION * stored):
            raise InvalidManifest(
                f"{where} has a column of {stored:,} bytes that expands to {largest:,}: images do not compress so far; "
                "write it in smaller row groups"
            )
    largest = max((column.total_uncompressed_size for column in columns), default=0)
    if largest > max(ROWS_AT_ONCE, group.num_rows) * MAX_IMAGE_BYTES:
        raise InvalidManifest(
            f"{where} has a column of {largest:,} bytes for {group.num_rows:,} rows; "
            f"the limit is {MAX_IMAGE_BYTES:,} a row"
        )
    return max(1, min(ROWS_AT_ONCE, memory_bytes // max(1, largest)))


def _bounded(array: pa.Array) -> pa.Array:
    """Cut cells of bytes or text to one over the limit of a file, so that the decoder rejects them too."""
    kind = array.type
    if pa.types.is_struct(kind):
        parts = [_bounded(array.field(number)) for number in range(kind.num_fields)]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=array.is_null()) if parts else array
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(array.indices, _bounded(array.dictionary))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pc.binary_slice(array, 0, MAX_BYTES + 1) if _too_long(array) else array
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pc.utf8_slice_codeunits(array, 0, MAX_BYTES + 1) if _too_long(array) else array
    return array


def _too_long(array: pa.Array) -> bool:
    longest = pc.max(pc.binary_length(array)).as_py()
    return longest is not None and longest > MAX_BYTES


def image_column(schema: pa.Schema) -> str | None:
    """Return the name of the column that holds images, or None."""
    lower = {name.lower(): name for name in reversed(schema.names)}
    named = [lower[name] for name in _IMAGE_COLUMNS if name in lower]
    return next((name for name in named if _holds_bytes(schema.field(name).type)), None)


def images_source(root: Root, names: Sequence[str]) -> Source:
    """Return a source of Parquet files with embedded images, one shard per file."""
    return Source(root.url, [_shard(root, name) for name in names])


def _shard(root: Root, name: str) -> Shard:
    schema, rows = parquet_schema(root, name)
    column = image_column(schema)
    if column is None:
        raise InvalidManifest(f"{root.uri(name)} has no column of images, as its neighbours have: move it elsewhere")
    return Shard(name, root.fingerprint(name), rows, partial(_items, root, name, column, Columns(schema.names)))


def _items(root: Root, name: str, column: str, columns: Columns, start: int) -> Iterator[Item]:
    for number, row in enumerate(parquet_rows(root, name, start), start=start):
        image = row.pop(column)
        yield columns.item(row, f"{name} row {number}", partial(_item, root, name, number, image))


def _item(root: Root, name: str, number: int, image: Any, fields: dict[str, str]) -> Item:
    data, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
    # A path inside the struct is only a name: many data sets write the same one in every row.
    key = fields.get("key") or f"{name}/{number}"
    failed = not_downloaded(key, fields)
    if failed is not None:
        return failed
    if data is not None:
        return SourceItem(key, f"{root.uri(name)}#{number}", partial(bytes, data), **described(fields))
    if path and not root.refusal(path):
        return SourceItem(key, root.uri(path), partial(read_file, root, path), **described(fields))
    return Unreadable(key, f"row {number} of {name} holds no image")


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(number).name == "bytes" for number in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _groups_from(file: pq.ParquetFile, skip: int) -> tuple[list[int], int]:
    """Return the row groups that hold row `skip` and later rows, and the number of the first row in them."""
    first = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if first + rows > skip:
            return list(range(group, file.num_row_groups)), first
        first += rows
    return [], first


@contextmanager
def _opened(root: Root, name: str) -> Iterator[pq.ParquetFile]:
    """Open a file, and translate errors of reading it into InvalidManifest."""
    try:
        with root.open(name) as file:
            yield pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise InvalidManifest(f"{root.uri(name)} cannot be read as Parquet: {error}") from error
