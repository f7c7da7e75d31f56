"""Read access to the vectors in the files of a shard, without qdrant-edge.

qdrant-edge returns vectors as lists of Python numbers, which takes 0.4 ms for a work of lite's ten views; the same
bytes are read here from the page cache. Only segments that a build has finished are read: their points never move. The
layout is that of the pinned qdrant-edge; a segment of another layout is left out. What is read may be out of date, if a
point was overwritten since the last flush, so a caller that finds fault with it compares it with qdrant-edge's answer.
"""

from __future__ import annotations

import json
import logging
import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import numpy as np
import numpy.typing as npt

from gmvaluator.index.engine.checksums import Rows
from gmvaluator.index.engine.settings import CollectionSettings, VectorSettings

_log = logging.getLogger(__name__)
_MAPPING = np.dtype([("uuid", "u1"), ("high", ">u8"), ("low", ">u8"), ("offset", "<u4")])
"""An entry of id_tracker.mappings: 1 for a UUID, the UUID, and the point's number in the segment."""

_MAPPING_HEADER_BYTES = 8
_MATRIX_HEADER_BYTES = 4
_OFFSET_FIELDS = 3
"""Numbers of an entry of a multivector's offsets: its first row, its rows, and the rows reserved for it."""

_Ids = npt.NDArray[np.uint64]


class _VectorFile(Protocol):
    """The stored vectors of one name in one segment."""

    def rows(self, number: int) -> Rows:
        """Return the vectors of a point, (D,) or (V, D). Raises LookupError if the files do not have them."""


class _Matrix:
    """One vector per point, in one file."""

    def __init__(self, folder: Path, size: int) -> None:
        data = _mapped(folder / "matrix.dat")
        self._rows = np.frombuffer(data, "<f4", offset=_MATRIX_HEADER_BYTES).reshape(-1, size)

    def rows(self, number: int) -> Rows:
        row: Rows = self._rows[number]
        return row


class _Chunks:
    """Rows of equal length in numbered files of equal size."""

    def __init__(self, folder: Path, dtype: str, size: int) -> None:
        config = json.loads((folder / "config.json").read_bytes())
        self._length = int(config["chunk_size_vectors"])
        paths = [folder / f"chunk_{number}.mmap" for number in range(len(list(folder.glob("chunk_*.mmap"))))]
        count = self._length * size
        self._chunks = [np.frombuffer(_mapped(path), dtype, count=count).reshape(-1, size) for path in paths]

    def part(self, first: int, count: int) -> npt.NDArray[Any]:
        chunk, row = divmod(first, self._length)
        if row + count > self._length:
            raise LookupError("the rows continue in another file")
        return self._chunks[chunk][row : row + count]


class _Multivectors:
    """A list of vectors per point."""

    def __init__(self, folder: Path, size: int) -> None:
        self._offsets = _Chunks(folder / "offsets", "<u4", _OFFSET_FIELDS)
        self._vectors = _Chunks(folder / "vectors", "<f4", size)

    def rows(self, number: int) -> Rows:
        first, count, _ = self._offsets.part(number, 1)[0].tolist()
        return self._vectors.part(first, count)


class _Segment:
    """A finished segment: which points it has, and their vectors."""

    def __init__(self, folder: Path, vectors: Mapping[str, VectorSettings]) -> None:
        data = (folder / "id_tracker.mappings").read_bytes()
        mappings = np.frombuffer(data, _MAPPING, offset=_MAPPING_HEADER_BYTES)
        if not mappings["uuid"].all():
            raise ValueError("some points have numbers for ids")
        high = mappings["high"].astype(np.uint64)
        order = np.argsort(high, kind="stable")
        self._high, self._low = high[order], mappings["low"].astype(np.uint64)[order]
        self._numbers = mappings["offset"][order]
        self._deleted = (folder / "id_tracker.deleted").read_bytes()
        self._files = {name: _vector_file(folder / f"vector_storage-{name}", of) for name, of in vectors.items()}

    def find(self, high: _Ids, low: _Ids) -> Iterator[tuple[int, dict[str, Rows]]]:
        """Yield the position of each id that has a current point here, with the point's vectors."""
        if not len(self._high):
            return
        places = np.minimum(np.searchsorted(self._high, high), len(self._high) - 1)
        present = (self._high[places] == high) & (self._low[places] == low)
        for position in np.flatnonzero(present).tolist():
            number = int(self._numbers[places[position]])
            if not self._deleted[number // 8] >> number % 8 & 1:
                yield position, {name: file.rows(number) for name, file in self._files.items()}


class StoredVectors:
    """The finished segments of a shard, as of their last flush. Thread-safe."""

    def __init__(self, shard: Path, settings: CollectionSettings) -> None:
        """Open the files of `shard`, a folder, which may be deleted afterwards."""
        self._segments: list[_Segment] = []
        for folder in sorted((shard / "segments").iterdir()):
            if not (folder / "id_tracker.mappings").exists():
                continue  # not finished: its points are known to qdrant-edge only
            try:
                self._segments.append(_Segment(folder, settings.vectors))
            except (OSError, ValueError, KeyError, IndexError) as error:
                _log.warning("the vectors of %s are read through qdrant-edge, which is slower: %s", folder.name, error)

    def read(self, ids: Sequence[UUID]) -> dict[UUID, dict[str, Rows]]:
        """Return the vectors, by name, of those of `ids` that are in the files."""
        pairs = np.frombuffer(b"".join(point_id.bytes for point_id in ids), ">u8").reshape(-1, 2).astype(np.uint64)
        found: dict[UUID, dict[str, Rows]] = {}
        for segment in self._segments:
            try:
                found.update((ids[place], rows) for place, rows in segment.find(pairs[:, 0], pairs[:, 1]))
            except LookupError as error:
                _log.warning("some vectors are read through qdrant-edge, which is slower: %s", error)
        return found


def _vector_file(folder: Path, settings: VectorSettings) -> _VectorFile:
    return _Multivectors(folder, settings.size) if settings.several else _Matrix(folder, settings.size)


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
