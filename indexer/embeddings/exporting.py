"""Writing a collection's embeddings to files, shard by shard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gmvaluator.errors import Conflict
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.schema import KEY_DATA_SET, KEY_KEY, KEY_LABELS, KEY_SHA256, KEY_TITLE, KEY_URI
from gmvaluator.ports import Point
from gmvaluator.profile import ProfileIdentity
from indexer.embeddings.layout import PROFILE_FILE, EmbeddedShard
from indexer.flow import batched

SHARD_ROWS = 10_000
_FIELDS = [
    ("training_image_id", pa.string()),
    ("sha256", pa.string()),
    ("key", pa.string()),
    ("image_path", pa.string()),
    ("caption", pa.string()),
    ("labels", pa.list_(pa.string())),
    ("data_set", pa.list_(pa.string())),
    ("width", pa.int64()),
    ("height", pa.int64()),
    ("license", pa.string()),
]


class Sizes(Protocol):
    """The catalogue, as far as an export needs it."""

    def described(self, ids: Sequence[TrainingImageId]) -> Mapping[TrainingImageId, tuple[int, int, str]]:
        """Width, height and licence of those of `ids` that are known."""


def export(
    points: Iterable[Point],
    profile: ProfileIdentity,
    sizes: Sizes,
    folder: Path,
    advance: Callable[[int], None] = lambda rows: None,  # noqa: ARG005
) -> int:
    """Write every point to `folder`; the number of rows. advance: called with the rows of each shard.

    The folder is there once all of it is: until then it is FOLDER.unfinished, which the next export removes. Raises
    Conflict if the folder holds anything: an export never mixes with an older one.
    """
    if folder.exists() and any(folder.iterdir()):
        raise Conflict(f"{folder} is not empty: name a new folder for the export")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    rows = 0
    for number, shard in enumerate(batched(points, SHARD_ROWS)):
        _write(EmbeddedShard(unfinished, f"{number:04}"), shard, sizes)
        rows += len(shard)
        advance(len(shard))
    (unfinished / PROFILE_FILE).write_text(json.dumps(profile.as_dict(), indent=2) + "\n", encoding="utf-8")
    unfinished.rename(folder)
    return rows


def _write(shard: EmbeddedShard, points: Sequence[Point], sizes: Sizes) -> None:
    for path in (shard.recall, shard.perceptual, shard.metadata):
        path.parent.mkdir(parents=True, exist_ok=True)
    np.save(shard.recall, np.stack([point.recall for point in points]))
    np.save(shard.perceptual, np.stack([point.perceptual for point in points]))
    known = sizes.described([point.training_image_id for point in points])
    rows = [_row(point, known.get(point.training_image_id)) for point in points]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(_FIELDS)), shard.metadata)


def _row(point: Point, known: tuple[int, int, str] | None) -> dict[str, Any]:
    width, height, license_name = known or (None, None, None)
    said = point.payload
    return {
        "training_image_id": str(point.training_image_id),
        "sha256": said[KEY_SHA256],
        "key": said[KEY_KEY],
        "image_path": said[KEY_URI],
        "caption": said[KEY_TITLE],
        "labels": list(said[KEY_LABELS]),
        "data_set": list(said[KEY_DATA_SET]),
        "width": width,
        "height": height,
        "license": license_name,
    }
