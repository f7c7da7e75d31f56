"""Copies of a collection's points, within an index or from one index to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from gmvaluator.errors import IndexFailed
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.store import QdrantStore
from gmvaluator.ports import Point

BATCH_POINTS = 256

_MAX_PASSES = 10
"""Maximum number of passes over the source; then a copy gives up because others keep writing."""

PointFilter = Callable[[Sequence[Point]], Sequence[Point]]
"""Returns those of the given points that the copy may contain."""


def all_points(points: Sequence[Point]) -> Sequence[Point]:
    """Return every point: the filter of a copy that leaves nothing out."""
    return points


@dataclass(frozen=True, slots=True)
class Copied:
    """The result of a copy. points: in the source; written: points that the target lacked or held otherwise."""

    points: int
    written: int
    target_points: int


def copy_collection(
    source: QdrantStore, target: QdrantStore, advance: Callable[[int], None] = lambda _: None
) -> Copied:
    """Copy every point of `source` with its payload to `target`, which is created if it is absent, and build it.

    A copy that was killed is resumed: points that the target holds already are not written again. advance: called with
    the number of points compared so far in a pass. Raises ProfileMismatch if another profile built the target,
    IndexFailed if others write to the source all the time or if points are missing at the end.
    """
    target.create(source.metadata().profile)
    written = 0
    for _ in range(_MAX_PASSES):
        changed = copy_missing(source, target, advance=advance)
        written += changed
        if not changed:
            break
        target.build()
    else:
        raise IndexFailed("the source is written to all the time: copy it when nobody indexes")
    result = Copied(source.count(), written, target.count())
    if result.target_points < result.points:
        raise IndexFailed(
            f"the copy holds {result.target_points:,} of {result.points:,} points: others remove from it; copy again"
        )
    return result


def copy_missing(
    source: QdrantStore,
    target: QdrantStore,
    kept: PointFilter = all_points,
    advance: Callable[[int], None] = lambda _: None,
) -> int:
    """Copy the points of `source` that `target` lacks or whose payload differs; return how many there were.

    The payload contains the checksum of a point's vectors, so that points whose payloads are equal are equal.
    """
    written = compared = 0
    for points in batches(source.scan()):
        payloads = {point.training_image_id: point.payload for point in target.fetch_payloads(ids_of(points))}
        differing = [point for point in kept(points) if payloads.get(point.training_image_id) != point.payload]
        if differing:
            target.upsert(source.fetch(ids_of(differing), local_features=True))
        written += len(differing)
        compared += len(points)
        advance(compared)
    return written


def batches(points: Iterable[Point]) -> Iterator[list[Point]]:
    """Divide points into lists of at most `BATCH_POINTS`."""
    iterator = iter(points)
    while page := list(islice(iterator, BATCH_POINTS)):
        yield page


def ids_of(points: Sequence[Point]) -> list[TrainingImageId]:
    """Return the ids of the images, in the order of `points`."""
    return [point.training_image_id for point in points]
