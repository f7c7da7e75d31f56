"""Checks of the vectors that a Qdrant server compares; unlike the embedded engine it does not check them itself.

A work's vectors are read and compared with their checksum when it is first compared with an image, and again once
`RECHECK_S` have passed: reading them takes longer than comparing them, and most works are compared many times.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from uuid import UUID

from qdrant_client import grpc as messages

from gmvaluator.ids import TrainingImageId
from gmvaluator.index.engine.checksums import CHECKSUM, damage
from gmvaluator.index.schema import PERCEPTUAL, RECALL
from gmvaluator.index.vectors import damaged_work, dense_row, dense_rows

RECHECK_S = 600.0
"""Seconds after which a work's vectors are read and checked again."""

_PAGE_WORKS = 64
_REMEMBERED = 200_000
"""Works whose last check is remembered."""


class ServerChecks:
    """The works of a collection that were checked, for one event loop."""

    def __init__(self, collection: str) -> None:
        self._collection = collection
        self._checked_at: dict[TrainingImageId, float] = {}

    def requests(self, ids: Iterable[TrainingImageId]) -> Iterator[messages.GetPoints]:
        """Yield the requests for those of `ids` that are due; pass each result to `check`."""
        now = time.monotonic()
        due = [work for work in ids if now - self._checked_at.get(work, -RECHECK_S) >= RECHECK_S]
        for start in range(0, len(due), _PAGE_WORKS):
            yield messages.GetPoints(
                collection_name=self._collection,
                ids=[messages.PointId(uuid=str(work)) for work in due[start : start + _PAGE_WORKS]],
                with_payload=messages.WithPayloadSelector(include=messages.PayloadIncludeSelector(fields=[CHECKSUM])),
                with_vectors=messages.WithVectorsSelector(enable=True),
            )

    def check(self, request: messages.GetPoints, points: Sequence[messages.RetrievedPoint]) -> None:
        """Check the points that answer `request`, and remember it. Raises IndexFailed, naming a damaged work."""
        for point in points:
            vectors = point.vectors.vectors.vectors
            checksum = point.payload[CHECKSUM].integer_value if CHECKSUM in point.payload else None
            rows = {RECALL: dense_row(vectors[RECALL]), PERCEPTUAL: dense_rows(vectors[PERCEPTUAL])}
            if reason := damage(rows, checksum):
                raise damaged_work(point.id.uuid, reason)
        if len(self._checked_at) > _REMEMBERED:
            self._checked_at.clear()
        now = time.monotonic()
        self._checked_at.update((TrainingImageId(UUID(point.uuid)), now) for point in request.ids)
