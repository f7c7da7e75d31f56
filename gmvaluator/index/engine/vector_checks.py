"""Checks of the stored vectors of points that a query compares, so that damaged ones decide nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from uuid import UUID

import numpy as np
import qdrant_edge as edge

from gmvaluator.index.engine.checksums import CHECKSUM, Rows, damage
from gmvaluator.index.engine.settings import CollectionSettings
from gmvaluator.index.engine.stored_vectors import StoredVectors

Retrieve = Callable[[Sequence[int | UUID], bool], Sequence[edge.Record]]
"""Returns those points of the given ids that are stored, with their checksum, and with their vectors if wanted."""

_CACHED_CHECKSUMS = 200_000
"""Checksums that are kept in memory: the same works are compared with many generated images."""


class VectorChecks:
    """Checks of the points of a shard as of its last flush. Thread-safe."""

    def __init__(self, shard: Path, settings: CollectionSettings, retrieve: Retrieve) -> None:
        self._stored = StoredVectors(shard, settings)
        self._retrieve = retrieve
        self._cosine = frozenset(name for name, vector in settings.vectors.items() if vector.distance == "cosine")
        self._checksums: dict[int | UUID, object] = {}

    def damaged(self, ids: Sequence[int | UUID]) -> dict[int | UUID, str]:
        """Return those of `ids` whose stored vectors are damaged, each with what is wrong."""
        checksums = self._checksums_of(ids)
        stored = self._stored.read([point for point in checksums if isinstance(point, UUID)])
        # The files may be out of date, and do not have every point: qdrant-edge decides.
        sound = {point for point, vectors in stored.items() if not self._damage(vectors, checksums[point])}
        doubtful = [point for point in checksums if point not in sound]
        records = self._retrieve(doubtful, True) if doubtful else ()
        damages = {_id(record): self._damage(_vectors(record), _checksum(record)) for record in records}
        return {point: reason for point, reason in damages.items() if reason}

    def _checksums_of(self, ids: Sequence[int | UUID]) -> dict[int | UUID, object]:
        """Return the checksums of those of `ids` that are stored; None for a point without one."""
        known = self._checksums
        unknown = [point for point in ids if point not in known]
        learnt = {_id(record): _checksum(record) for record in self._retrieve(unknown, False)} if unknown else {}
        checksums = {
            point: learnt[point] if point in learnt else known[point]
            for point in ids
            if point in learnt or point in known
        }
        if len(known) + len(learnt) > _CACHED_CHECKSUMS:
            self._checksums = learnt
        else:
            known.update(learnt)
        return checksums

    def _damage(self, vectors: Mapping[str, Rows], checksum: object) -> str:
        if checksum is None:
            vectors = {name: rows for name, rows in vectors.items() if name in self._cosine}
        return damage(vectors, checksum)


def _id(record: edge.Record) -> int | UUID:
    return record.id if isinstance(record.id, int) else UUID(str(record.id))


def _checksum(record: edge.Record) -> object:
    return (record.payload or {}).get(CHECKSUM)


def _vectors(record: edge.Record) -> dict[str, Rows]:
    vectors = record.vector if isinstance(record.vector, Mapping) else {}
    return {name: np.asarray(rows, np.float32) for name, rows in vectors.items()}
