"""The works of a data set in the real index: an embedded engine, product quantisation, a graph."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluation.digits.pictures import Pictures
from gmvaluator.ids import TrainingImageId, sha256_hex, training_image_id
from gmvaluator.index.opening import open_store
from gmvaluator.index.store import QdrantStore
from gmvaluator.models.profiles import profile_identity
from gmvaluator.ports import Embeddings, Point

_ENGINE_ENDS_S = 20


@dataclass(frozen=True)
class RealIndex:
    """location: of the engine. ids: of the works, in their order, each once. rows: the other way."""

    location: Path
    store: QdrantStore
    ids: Sequence[TrainingImageId]
    rows: dict[TrainingImageId, int]


@contextmanager
def real_index(profile: str, pictures: Pictures, embeddings: Embeddings) -> Iterator[RealIndex]:
    """Index (N, 28, 28) pictures, each seen whole; where a profile has several views, every view is the whole."""
    identity = profile_identity(profile)
    views = identity.perceptual_views
    ids = [training_image_id(sha256_hex(picture.tobytes())) for picture in pictures]
    with _folder() as folder:
        store = open_store(folder)
        try:
            store.create(identity)
            store.upsert(
                [
                    Point(one, recall, np.repeat(perceptual[None], views, axis=0), {"data_set": ["digits"]})
                    for one, recall, perceptual in zip(ids, embeddings.recall, embeddings.perceptual, strict=True)
                ]
            )
            store.build()
            yield RealIndex(folder, store, ids, {one: row for row, one in enumerate(ids)})
        finally:
            store.close()


@contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder. The engine ends a moment after its last user, and may write until then."""
    folder = Path(tempfile.mkdtemp(prefix="gmvaluator-criteria-"))
    try:
        yield folder
    finally:
        deadline = time.monotonic() + _ENGINE_ENDS_S
        while folder.exists():
            # The last attempt is allowed to fail aloud.
            shutil.rmtree(folder, ignore_errors=time.monotonic() < deadline)
            time.sleep(0.1)
