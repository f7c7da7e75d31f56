"""Source -> decode -> embed -> upsert, with every queue bounded and every file counted."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL.Image import Image

from gmvaluator.catalogue.records import NewWork, OwnerReference
from gmvaluator.errors import InvalidImage, InvalidInput, ModelFailed
from gmvaluator.ids import TrainingImageId, sha256_hex, training_image_id
from gmvaluator.images import MAX_IMAGE_BYTES, decode_image, thumbnail, thumbnail_path
from gmvaluator.index.schema import KEY_DATA_SET, KEY_KEY, KEY_LABELS, KEY_SHA256, KEY_TITLE, KEY_URI
from gmvaluator.ports import Float32Array, Models, Point, Prepared, VectorStore
from indexer.source import Source, SourceItem, Unreadable

BATCH_VIEWS = 64
"""Views embedded in one batch. `lite`'s take 600 KB each as model input, and about three batches are in memory."""

MAX_BATCH_IMAGES = 32
DECODERS = 2

In = TypeVar("In")
Out = TypeVar("Out")


class WorkRecorder(Protocol):
    """The catalogue, as far as the indexer needs it."""

    def tombstoned(self, sha256s: Collection[str]) -> set[str]: ...

    def record(self, batch: Sequence[NewWork]) -> object: ...


@dataclass(frozen=True, slots=True)
class Reject:
    """A file that was not indexed, and why."""

    key: str
    reason: str


@dataclass(slots=True)
class Report:
    """What became of every file that was read: read == points + duplicates + len(rejects), always.

    duplicates: files whose bytes are indexed already, by this run or an earlier one.
    """

    read: int = 0
    points: int = 0
    duplicates: int = 0
    rejects: list[Reject] = field(default_factory=list)

    @property
    def reconciles(self) -> bool:
        return self.read == self.points + self.duplicates + len(self.rejects)

    def as_dict(self) -> dict[str, Any]:
        rejects = [{"key": reject.key, "reason": reject.reason} for reject in self.rejects]
        return {
            "read": self.read,
            "points": self.points,
            "duplicates": self.duplicates,
            "rejects": len(rejects),
            "reconciles": self.reconciles,
            "rejected": rejects,
        }


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file that is an image: what the catalogue gets, its thumbnail (WebP) and its views' model inputs."""

    work: NewWork
    thumbnail: bytes
    inputs: Sequence[Prepared]

    @property
    def training_image_id(self) -> TrainingImageId:
        return self.work.training_image_id


@dataclass(frozen=True)
class Indexer:
    """One run over one source into one collection.

    Points are upserted before the catalogue learns of them, so a work that the catalogue knows is in the index:
    a run that was killed is taken up by running it again, and repeats at most one batch.
    """

    models: Models
    store: VectorStore
    catalogue: WorkRecorder
    thumbnails: Path
    data_set: str

    def run(
        self, source: Source, advance: Callable[[Report], None], stopping: Callable[[], bool] = lambda: False
    ) -> Report:
        """Index `source`; calls `advance` after each batch and stops between batches once `stopping`."""
        report = Report()
        with ThreadPoolExecutor(DECODERS, thread_name_prefix="decode") as pool:
            size = max(1, min(MAX_BATCH_IMAGES, BATCH_VIEWS // self.models.identity.perceptual_views))
            decoded = ordered_map(pool, self._decode, source, window=2 * size)
            for batch in batched(decoded, size):
                self._index(batch, report)
                advance(report)
                if stopping():
                    decoded.close()
                    break
        return report

    def _decode(self, item: SourceItem | Unreadable) -> Decoded | Reject:
        if isinstance(item, Unreadable):
            return Reject(item.key, item.reason)
        try:
            return self._decode_file(item)
        except InvalidInput as error:
            return Reject(item.key, str(error))
        except OSError as error:
            return Reject(item.key, f"the file cannot be read: {error.strerror}")

    def _decode_file(self, item: SourceItem) -> Decoded:
        with item.path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
        image = decode_image(data)
        sha256 = sha256_hex(data)
        if item.sha256 not in (None, sha256):
            raise InvalidImage(f"its SHA-256 is {sha256}, the manifest says {item.sha256}: correct one of them")
        return Decoded(self._work(item, sha256, image), thumbnail(image), self.models.prepare_work(image))

    def _work(self, item: SourceItem, sha256: str, image: Image) -> NewWork:
        owner = OwnerReference(item.owner, item.owner_name or item.owner) if item.owner else None
        return NewWork(
            training_image_id=training_image_id(sha256),
            sha256=sha256,
            width=image.width,
            height=image.height,
            data_set=self.data_set,
            key=item.key,
            uri=item.path.resolve().as_uri(),
            title=item.title,
            license=item.license,
            labels=item.labels,
            owner=owner,
        )

    def _index(self, batch: list[Decoded | Reject], report: Report) -> None:
        images = [entry for entry in batch if isinstance(entry, Decoded)]
        refused = self._removed_earlier(images)
        present = self.store.existing([image.training_image_id for image in images])
        skipped = present | refused.keys()
        fresh = {image.training_image_id: image for image in images if image.training_image_id not in skipped}
        refused |= self._upsert(list(fresh.values()))
        self.store.join_data_set(sorted(present - refused.keys()), self.data_set)
        kept = [image for image in images if image.training_image_id not in refused]
        self.catalogue.record([image.work for image in kept])
        points = len(fresh.keys() - refused.keys())
        report.read += len(batch)
        report.points += points
        report.duplicates += len(kept) - points
        report.rejects.extend(entry for entry in batch if isinstance(entry, Reject))
        report.rejects.extend(
            Reject(image.work.key, refused[image.training_image_id])
            for image in images
            if image.training_image_id in refused
        )

    def _removed_earlier(self, images: list[Decoded]) -> dict[TrainingImageId, str]:
        buried = self.catalogue.tombstoned({image.work.sha256 for image in images})
        reason = "it was removed from the index or opted out, and stays out"
        return {image.training_image_id: reason for image in images if image.work.sha256 in buried}

    def _upsert(self, images: list[Decoded]) -> dict[TrainingImageId, str]:
        """Embed and write; answers the ids that the model failed on, each with the reason."""
        if not images:
            return {}
        points, failed = [], {}
        for image, embedded in zip(images, self._embed(images), strict=True):
            if isinstance(embedded, ModelFailed):
                failed[image.training_image_id] = str(embedded)
            else:
                points.append(Point(image.training_image_id, *embedded, payload=payload(image.work)))
                self._keep_thumbnail(image)
        self.store.upsert(points)
        return failed

    def _embed(self, images: list[Decoded]) -> list[tuple[Float32Array, Float32Array] | ModelFailed]:
        """One row an image; a batch that fails is halved until the image at fault stands alone."""
        try:
            rows = self.models.embed_works([image.inputs for image in images])
        except ModelFailed as error:
            if len(images) == 1:
                return [error]
            half = len(images) // 2
            return self._embed(images[:half]) + self._embed(images[half:])
        return list(zip(rows.recall, rows.perceptual, strict=True))

    def _keep_thumbnail(self, image: Decoded) -> None:
        path = thumbnail_path(self.thumbnails, image.training_image_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.thumbnail)


def payload(work: NewWork) -> dict[str, Any]:
    """What the index stores beside a work's vectors."""
    return {
        KEY_SHA256: work.sha256,
        KEY_KEY: work.key,
        KEY_URI: work.uri,
        KEY_TITLE: work.title,
        KEY_LABELS: list(work.labels),
        KEY_DATA_SET: [work.data_set],
    }


def ordered_map(
    pool: ThreadPoolExecutor, function: Callable[[In], Out], items: Iterable[In], window: int
) -> Generator[Out, None, None]:
    """`map` on a pool that keeps order and never has more than `window` items in hand."""
    waiting: deque[Future[Out]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def batched(items: Iterable[In], size: int) -> Iterator[list[In]]:
    """Lists of `size` items; the last may be shorter."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
