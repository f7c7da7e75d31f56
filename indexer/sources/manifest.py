"""Manifests: CSV, JSONL or Parquet rows that name image files below a root."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, BinaryIO

from gmvaluator.errors import InvalidInput, InvalidManifest
from gmvaluator.text import check_utf8_mark
from indexer.sources.columns import ALIASES, Columns, described
from indexer.sources.ignored_columns import IgnoredColumns
from indexer.sources.item import Item, Shard, Source, SourceItem, Unreadable
from indexer.sources.parquet import parquet_rows, parquet_schema, rest_of_shard
from indexer.sources.roots import Root, read_file

BLOCK_ROWS = 10_000
"""Rows of one shard of a CSV or JSONL manifest."""

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Maximum size of one line, in bytes; a file without line breaks must not fill the memory."""

Position = tuple[int, int]
"""First row of a block, and the byte offset at which it begins."""


def manifest_source(root: Root, folder: Root, manifest: str) -> Source:
    """Open the rows of `manifest`, a file in `folder`; the files that they name are below `root`.

    Raises InvalidManifest if it cannot be read, or has no column of files.
    """
    if not folder.is_file(manifest):
        raise InvalidManifest(f"there is no manifest {folder.uri(manifest)}")
    form = _FORMS.get(manifest.rsplit(".", 1)[-1].lower())
    if form is None:
        raise InvalidManifest(f"{manifest} is no manifest: give a .csv, .jsonl or .parquet file")
    name = f"{root.url} by {folder.uri(manifest)}"
    ignored = IgnoredColumns()
    return Source(name, [*form(root, folder, manifest, ignored)], ignored)


def _row_item(root: Root, manifest: str, columns: Columns, row: Mapping[str, Any], number: int) -> Item:
    """Return the item of one row. number: the row for people, who count from 1 and see a CSV's header."""
    return columns.item(row, f"{manifest} row {number}", partial(_named_file, root, manifest, number))


def _named_file(root: Root, manifest: str, number: int, fields: Mapping[str, str]) -> Item:
    file_name = fields.get("file_name", "")
    key = fields.get("key") or file_name or f"row {number}"
    if not file_name:
        return Unreadable(key, f"row {number} of {manifest} names no file")
    refusal = root.refusal(file_name)
    if refusal:
        return Unreadable(key, f"{file_name!r}: {refusal}")
    return SourceItem(key, root.uri(file_name), partial(read_file, root, file_name), **described(fields))


def _csv(root: Root, folder: Root, manifest: str, ignored: IgnoredColumns) -> Iterator[Shard]:
    with _parsed(manifest), folder.open(manifest) as file:
        _skip_mark(file, manifest)
        header = _header(file)
        row_item = partial(_row_item, root, manifest, _checked(Columns(header), manifest, ignored))
        blocks, rows = _blocks(_csv_offsets(file))

    def start(first: Position, count: int, skip: int) -> Iterator[Item]:
        with _parsed(manifest), folder.open(manifest) as file:
            file.seek(first[1])
            reader = csv.reader(_lines(file), strict=True)
            for offset, row in zip(range(count), reader, strict=False):
                if offset >= skip:
                    yield _csv_item(row_item, manifest, header, row, first[0] + offset + 2)

    yield from _shards(folder, manifest, blocks, rows, start)


def _csv_item(
    row_item: Callable[[Mapping[str, Any], int], Item],
    manifest: str,
    header: Sequence[str],
    row: list[str],
    number: int,
) -> Item:
    """Return the item of a CSV row, or Unreadable if its number of cells is not the header's.

    A row that is cut or shifted might give an image to another owner.
    """
    if len(row) != len(header):
        reason = f"row {number} of {manifest} has {len(row)} cells where {len(header)} are expected: quote its commas"
        return Unreadable(f"{manifest} row {number}", reason)
    return row_item(dict(zip(header, row, strict=True)), number)


def _jsonl(root: Root, folder: Root, manifest: str, ignored: IgnoredColumns) -> Iterator[Shard]:
    with _parsed(manifest), folder.open(manifest) as file:
        _skip_mark(file, manifest)
        blocks, rows = _blocks(_line_offsets(file))
        file.seek(0)
        _skip_mark(file, manifest)
        names = {name: None for line in islice(_raw_lines(file), 100) for name in _object(line) or ()}
    if rows:
        _checked(Columns(names), manifest, ignored)

    def start(first: Position, count: int, skip: int) -> Iterator[Item]:
        with _parsed(manifest), folder.open(manifest) as file:
            file.seek(first[1])
            for offset, line in zip(range(count), _raw_lines(file), strict=False):
                if offset >= skip:
                    yield _jsonl_item(root, manifest, line, first[0] + offset + 1)

    yield from _shards(folder, manifest, blocks, rows, start)


def _jsonl_item(root: Root, manifest: str, line: bytes, number: int) -> Item:
    row = _object(line)
    if row is None:
        where = f"{manifest} row {number}"
        return Unreadable(where, f"{where} is no JSON object in UTF-8")
    # Columns of the row itself: keys of JSON objects may differ from row to row.
    return _row_item(root, manifest, Columns(row), row, number)


def _parquet(root: Root, folder: Root, manifest: str, ignored: IgnoredColumns) -> Iterator[Shard]:
    schema, rows = parquet_schema(folder, manifest)
    row_item = partial(_row_item, root, manifest, _checked(Columns(schema.names), manifest, ignored))

    def start(skip: int) -> Iterator[Item]:
        try:
            for number, row in enumerate(parquet_rows(folder, manifest, skip), start=skip + 1):
                yield row_item(row, number)
        except InvalidManifest as error:
            yield rest_of_shard(manifest, error)

    yield Shard("rows", folder.fingerprint(manifest), rows, start)


_FORMS = {"csv": _csv, "jsonl": _jsonl, "ndjson": _jsonl, "parquet": _parquet}


def _shards(folder: Root, manifest: str, blocks: list[Position], rows: int, start: Any) -> Iterator[Shard]:
    fingerprint = folder.fingerprint(manifest)
    for block in blocks:
        count = min(BLOCK_ROWS, rows - block[0])
        yield Shard(f"rows {block[0]}", fingerprint, count, partial(start, block, count))


def _blocks(offsets: Iterable[int]) -> tuple[list[Position], int]:
    """Return the position of each block, and the number of rows."""
    blocks, rows = [], 0
    for rows, offset in enumerate(offsets, start=1):
        if (rows - 1) % BLOCK_ROWS == 0:
            blocks.append((rows - 1, offset))
    return blocks, rows


def _header(file: BinaryIO) -> list[str]:
    line = next(csv.reader(_lines(file), strict=True), [])
    return [name.strip() for name in line]


def _skip_mark(file: BinaryIO, manifest: str) -> None:
    """Move past a byte order mark at the start. Raises InvalidManifest if it is that of another encoding."""
    start = file.read(4)
    try:
        check_utf8_mark(start, manifest)
    except InvalidInput as error:
        raise InvalidManifest(str(error)) from error
    file.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)


def _csv_offsets(file: BinaryIO) -> Iterator[int]:
    """Yield the byte offset of each row; a row may hold line breaks."""
    reader = csv.reader(_lines(file), strict=True)
    while True:
        offset = file.tell()
        row = next(reader, None)
        if row is None:
            return
        if row:
            yield offset


def _line_offsets(file: BinaryIO) -> Iterator[int]:
    while True:
        offset = file.tell()
        line = file.readline(MAX_LINE_BYTES)
        if not line:
            return
        if line.strip():
            yield offset


def _lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines of `_raw_lines` as text."""
    return (line.decode("utf-8") for line in _raw_lines(file))


def _raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield lines that are not empty; the file's position is always just after the line yielded."""
    # Not `for line in file`, which reads ahead and so leaves the position somewhere behind the line.
    while line := file.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES:
            raise InvalidManifest(f"a line has over {MAX_LINE_BYTES:,} bytes")
        if line.strip():
            yield line


def _object(line: bytes) -> dict[str, Any] | None:
    """Return a line's JSON object; None if it is none."""
    try:
        document = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _checked(columns: Columns, manifest: str, ignored: IgnoredColumns) -> Columns:
    """Return the columns, and note those that are not read. Raises InvalidManifest if none names files."""
    columns.note_ignored(ignored)
    if "file_name" in columns:
        return columns
    aliases = ", ".join(ALIASES["file_name"])
    only_urls = ": it has URLs only, so download the images first, for instance by img2dataset" * ("url" in columns)
    raise InvalidManifest(f"{manifest} has no column of files (one of {aliases}){only_urls}")


@contextmanager
def _parsed(manifest: str) -> Iterator[None]:
    """Translate parsing errors of a manifest into InvalidManifest."""
    try:
        yield
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidManifest(f"{manifest} cannot be read as UTF-8 text of rows: {error}") from error
