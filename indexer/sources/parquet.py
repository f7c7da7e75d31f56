"""Parquet files of rows, and the reading of their rows in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gmvaluator.errors import InvalidManifest
from gmvaluator.images import MAX_IMAGE_BYTES
from gmvaluator.training_images import MAX_BYTES
from indexer.sources.item import Unreadable
from indexer.sources.roots import Root, WatchedFile

ROWS_AT_ONCE = 64
"""Rows that are read into memory together, at most."""

FILES_AT_ONCE = 6
"""Files of the largest accepted size that fit into the memory for the rows that are read together."""

MAX_EXPANSION = 100
"""Limit of a large column's size in memory divided by its stored size."""


def parquet_schema(root: Root, name: str) -> tuple[pa.Schema, int]:
    """Return the columns and the number of rows.

    Raises InvalidManifest if the file is no Parquet, Unavailable if it cannot be reached.
    """
    with _opened(root, name) as file:
        return file.schema_arrow, file.metadata.num_rows


def parquet_rows(root: Root, name: str, skip: int, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield rows as dictionaries from row `skip`, counted from 0, on; row groups that end earlier are not read.

    columns: the only ones to read; None for all. A cell above the size limit of a file is cut just above it, so that
    the decoder rejects it. Raises InvalidManifest if the file is damaged or a row group has too large a column,
    Unavailable if the file cannot be reached.
    """
    with _opened(root, name) as file:
        groups, first = _groups_from(file, skip)
        if not groups:
            return
        row = first
        for group in groups:
            size = _rows_at_once(file.metadata.row_group(group), f"row group {group} of {root.uri(name)}")
            for batch in file.iter_batches(size, row_groups=[group], columns=columns):
                cells = [_bounded(column) for column in batch.columns]
                for values in pa.RecordBatch.from_arrays(cells, names=batch.schema.names).to_pylist():
                    if row >= skip:
                        yield values
                    row += 1


def rest_of_shard(name: str, error: InvalidManifest) -> Unreadable:
    """Return one reject for the rows of a file from where it is damaged, so that they are counted."""
    return Unreadable(f"{name} (the rest of the shard)", f"the shard ends early or is damaged: {error}")


def holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds files: bytes, or Hugging Face's struct of them, or lists of either."""
    if isinstance(kind, pa.BaseExtensionType):
        return holds_bytes(kind.storage_type)
    if pa.types.is_dictionary(kind) or is_list(kind):
        return holds_bytes(kind.value_type)
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
    return any(
        is_kind(kind)
        for is_kind in (
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
            pa.types.is_fixed_size_binary,
        )
    )


def is_list(kind: pa.DataType) -> bool:
    """Return whether each cell of a column of this type is a list."""
    return any(
        is_kind(kind)
        for is_kind in (
            pa.types.is_list,
            pa.types.is_large_list,
            pa.types.is_fixed_size_list,
            pa.types.is_list_view,
            pa.types.is_large_list_view,
        )
    )


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
    if isinstance(kind, pa.BaseExtensionType):
        return _bounded(array.storage)
    if pa.types.is_struct(kind):
        parts = [_bounded(array.field(number)) for number in range(kind.num_fields)]
        names = [field.name for field in kind]
        return pa.StructArray.from_arrays(parts, names=names, mask=array.is_null()) if parts else array
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(array.indices, _bounded(array.dictionary))
    if pa.types.is_binary_view(kind):  # Arrow has no functions for views
        return _bounded(array.cast(pa.large_binary()))
    if pa.types.is_string_view(kind):
        return _bounded(array.cast(pa.large_string()))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pc.binary_slice(array, 0, MAX_BYTES + 1) if _too_long(array) else array
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pc.utf8_slice_codeunits(array, 0, MAX_BYTES + 1) if _too_long(array) else array
    return array


def _too_long(array: pa.Array) -> bool:
    longest = pc.max(pc.binary_length(array)).as_py()
    return longest is not None and longest > MAX_BYTES


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
    """Open a file, and translate errors of its content into InvalidManifest, and outages into Unavailable."""
    watched: WatchedFile | None = None
    try:
        with root.open(name) as file:
            watched = WatchedFile(file)
            yield pq.ParquetFile(watched)
    except (pa.ArrowException, OSError) as error:
        if watched is None or watched.failure is not None:
            root.require_reachable(name, watched.failure if watched is not None and watched.failure else error)
        raise InvalidManifest(f"{root.uri(name)} cannot be read as Parquet: {error}") from error
