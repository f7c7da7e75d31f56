"""Export of a collection's embeddings to files, and the shards of a folder of embeddings."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gmvaluator.errors import Conflict, InvalidManifest, MissingData, ProfileMismatch
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.schema import (
    KEY_DATA_SET,
    KEY_KEY,
    KEY_LABELS,
    KEY_LOCAL_FEATURES,
    KEY_SHA256,
    KEY_TITLE,
    KEY_URI,
)
from gmvaluator.ports import Float32Array, Point
from gmvaluator.profile import ProfileIdentity
from indexer.pipeline import batched

SHARD_ROWS = 10_000
"""Rows of one shard of an export."""

Floats = npt.NDArray[np.floating[Any]]

RECALL_FOLDER, PERCEPTUAL_FOLDER, METADATA_FOLDER = "img_emb", "perceptual_emb", "metadata"
PROFILE_FILE = "profile.json"
_NUMBERED = re.compile(r"img_emb_([0-9]+)\.npy")
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
    (KEY_LOCAL_FEATURES, pa.string()),
]
"""Columns of an export's metadata."""


@dataclass(frozen=True, slots=True)
class EmbeddedShard:
    """The three files of one shard: recall vectors, perceptual vectors, metadata."""

    folder: Path
    number: str

    @property
    def recall(self) -> Path:
        return self.folder / RECALL_FOLDER / f"img_emb_{self.number}.npy"

    @property
    def perceptual(self) -> Path:
        return self.folder / PERCEPTUAL_FOLDER / f"perceptual_emb_{self.number}.npy"

    @property
    def metadata(self) -> Path:
        return self.folder / METADATA_FOLDER / f"metadata_{self.number}.parquet"

    @property
    def fingerprint(self) -> str:
        """A text that differs once one of the files may have changed."""
        stats = [path.stat() for path in (self.recall, self.perceptual, self.metadata)]
        return "-".join(f"{status.st_size}.{status.st_mtime_ns}" for status in stats)

    def rows(self, profile: ProfileIdentity) -> int:
        """Return the number of rows. Raises InvalidManifest unless the files match each other and the profile."""
        shapes = {path: _mapped(path).shape for path in (self.recall, self.perceptual)}
        expected = {
            self.recall: (profile.recall_dim,),
            self.perceptual: (profile.perceptual_views, profile.perceptual_dim),
        }
        for path, shape in shapes.items():
            # An axis of length 1, as of a single view, may be missing.
            if shape[1:] not in (expected[path], tuple(side for side in expected[path] if side != 1)):
                raise InvalidManifest(
                    f"{path} holds vectors of shape {shape[1:]}, profile {profile.name} makes {expected[path]}: "
                    "name the profile that made them by --profile"
                )
        counts = {shape[0] for shape in shapes.values()} | {_parquet_rows(self.metadata)}
        if len(counts) != 1:
            raise InvalidManifest(f"shard {self.number} of {self.folder} has files of {sorted(counts)} rows")
        return counts.pop()

    def vectors(self, start: int, stop: int, profile: ProfileIdentity) -> tuple[Float32Array, Float32Array]:
        """Return rows `start` to `stop`: (B, D) and (B, V, P), float32 of unit norm, whatever the files' precision."""
        recall = _unit(_mapped(self.recall)[start:stop])
        perceptual = _unit(_mapped(self.perceptual)[start:stop])
        return recall, perceptual.reshape(len(perceptual), profile.perceptual_views, profile.perceptual_dim)


def is_embeddings(location: str) -> bool:
    """Return whether the location is a folder of this machine that holds embeddings."""
    return (Path(location) / RECALL_FOLDER).is_dir() and (Path(location) / METADATA_FOLDER).is_dir()


def embedded_shards(folder: Path) -> list[EmbeddedShard]:
    """Return every shard of a folder, by number. Raises MissingData if one of its files is absent."""
    matches = (_NUMBERED.fullmatch(path.name) for path in (folder / RECALL_FOLDER).iterdir())
    numbers = sorted((match[1] for match in matches if match), key=int)
    shards = [EmbeddedShard(folder, number) for number in numbers]
    for shard in shards:
        if not shard.metadata.is_file():
            raise MissingData(f"{shard.metadata} is missing: every img_emb file needs its metadata")
        if not shard.perceptual.is_file():
            raise MissingData(
                f"{shard.perceptual} is missing: candidates are re-ranked by perceptual vectors, which clip-retrieval "
                "does not make; index the images themselves, or add the vectors"
            )
    if not shards:
        raise MissingData(f"{folder / RECALL_FOLDER} holds no img_emb_N.npy")
    return shards


def check_stated(folder: Path, identity: ProfileIdentity) -> None:
    """Raise ProfileMismatch if the folder names a profile other than `identity`; it need not name one."""
    try:
        stated = ProfileIdentity.from_dict(json.loads((folder / PROFILE_FILE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return
    except (ValueError, TypeError) as error:
        raise InvalidManifest(f"{folder / PROFILE_FILE} is no profile: {error}") from error
    if stated.hash != identity.hash:
        raise ProfileMismatch(
            f"the embeddings in {folder} were made by profile {stated.name!r} ({stated.hash[:12]}), not by "
            f"{identity.name!r} ({identity.hash[:12]}): name theirs by --profile, or index the images"
        )


def _mapped(path: Path) -> Floats:
    try:
        array: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InvalidManifest(f"{path} cannot be read as a numpy array: {error}") from error
    if array.ndim < 2 or array.dtype.kind != "f":
        raise InvalidManifest(f"{path} holds {array.dtype} of shape {array.shape}: rows of floats are needed")
    return array


def _parquet_rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, ValueError) as error:
        raise InvalidManifest(f"{path} cannot be read as Parquet: {error}") from error


def _unit(rows: Floats) -> Float32Array:
    """Normalise rows, as half precision loses up to a thousandth of a norm; leave rows of norm 0 to be rejected."""
    wide = np.asarray(rows, np.float32)
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    unit: Float32Array = np.divide(wide, norms, out=wide.copy(), where=np.isfinite(norms) & (norms > 0))
    return unit


class Sizes(Protocol):
    """The part of the catalogue that an export needs."""

    def sizes_and_licences(self, ids: Sequence[TrainingImageId]) -> Mapping[TrainingImageId, tuple[int, int, str]]:
        """Return width, height (pixels) and licence of those of `ids` that are known."""


def export(
    points: Iterable[Point],
    profile: ProfileIdentity,
    sizes: Sizes,
    folder: Path,
    advance: Callable[[int], None] = lambda rows: None,  # noqa: ARG005
) -> int:
    """Write every point to `folder`; return the number of rows. advance: called with the rows of each shard.

    The folder appears once the export is complete: until then it is FOLDER.unfinished, which the next export removes.
    Raises Conflict if the folder is not empty: an export never mixes with an older one.
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
    # Last, so that an export that was killed leaves no folder that looks complete.
    unfinished.rename(folder)
    return rows


def _write(shard: EmbeddedShard, points: Sequence[Point], sizes: Sizes) -> None:
    for path in (shard.recall, shard.perceptual, shard.metadata):
        path.parent.mkdir(parents=True, exist_ok=True)
    np.save(shard.recall, np.stack([point.recall for point in points]))
    np.save(shard.perceptual, np.stack([point.perceptual for point in points]))
    known = sizes.sizes_and_licences([point.training_image_id for point in points])
    rows = [_row(point, known.get(point.training_image_id)) for point in points]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(_FIELDS)), shard.metadata)


def _row(point: Point, known: tuple[int, int, str] | None) -> dict[str, Any]:
    width, height, license_name = known or (None, None, None)
    payload = point.payload
    return {
        "training_image_id": str(point.training_image_id),
        "sha256": payload[KEY_SHA256],
        "key": payload[KEY_KEY],
        "image_path": payload[KEY_URI],
        "caption": payload[KEY_TITLE],
        "labels": list(payload[KEY_LABELS]),
        "data_set": list(payload[KEY_DATA_SET]),
        "width": width,
        "height": height,
        "license": license_name,
        KEY_LOCAL_FEATURES: payload.get(KEY_LOCAL_FEATURES),
    }
