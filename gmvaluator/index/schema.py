"""The collection: two named vectors per training image, a payload, and what the metadata records.

`recall` is searched by nearest neighbours: HNSW over product-quantised codes held in RAM, the originals on disk
for rescoring. `perceptual`, one vector for each view of the image, is only scored for recalled candidates, by the view
that is most similar: no graph, on disk. One large segment, because product quantisation is trained per segment.

Ways to compress the vectors that are searched, by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import UUID

from gmvaluator.errors import InvalidInput, MissingIndex, ProfileMismatch
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.engine.quantisation import CHOICES, RATIOS
from gmvaluator.ports import CollectionInfo
from gmvaluator.profile import ProfileIdentity

DEFAULT = CHOICES[0]


def code_bytes(quantisation: str, dimension: int) -> int:
    """Bytes of one vector's code, without what an engine adds to it."""
    return -(-4 * dimension // RATIOS[quantisation])


RECALL = "recall"
PERCEPTUAL = "perceptual"
VECTORS = (RECALL, PERCEPTUAL)

KEY_SHA256 = "sha256"
KEY_KEY = "key"
KEY_URI = "uri"
KEY_TITLE = "title"
KEY_LABELS = "labels"
KEY_DATA_SET = "data_set"
KEY_GROUP = "duplicate_group"
"""Payload keys. data_set is a list of names: recall is restricted by it. duplicate_group is the id of the first of an
image's near-copies, also in its own payload, and empty if it has none; absent, nobody has looked yet. Both have an
index.
"""

ALONE = ""
"""duplicate_group of an image without near-copies."""

DEFAULT_COLLECTION = "works"
DEFAULT_DEPTH = 200
"""Candidates recalled before re-ranking, where nothing else is asked for."""

HNSW_M = 16
HNSW_EF_CONSTRUCT = 128
FULL_SCAN_THRESHOLD_KB = 10
"""Small, so that small collections are searched through the graph as large ones are."""

INDEXING_THRESHOLD_KB = 1
"""The smallest there is: one vector of 256 dimensions is enough to be quantised."""

SEGMENTS = 1
MAX_SEGMENT_KB = 64 * 1024 * 1024
FORMAT = 2


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How `recall` is searched. Raising either finds more of the true neighbours and takes longer.

    oversampling: candidates by code per answer, rescored with the originals. hnsw_ef: length of the graph
    search's list.
    """

    oversampling: float = 4.0
    hnsw_ef: int = 256
    rescore: bool = True

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> SearchSettings:
        """What the collection's metadata records, or the defaults."""
        return cls(**metadata.get("search", {}))


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """How a collection is kept; chosen when it is made, and again when it is rebuilt.

    hnsw_m: edges per node of the graph; more find more and take memory. hnsw_ef_construct: candidates looked at for
    each edge; more make a better graph and a longer build. on_disk: originals are read from disk, codes stay in memory.
    shard_number, replication_factor, write_consistency_factor: of a Qdrant cluster; None leaves them to the server.
    """

    hnsw_m: int = HNSW_M
    hnsw_ef_construct: int = HNSW_EF_CONSTRUCT
    on_disk: bool = True
    shard_number: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None

    @property
    def cluster(self) -> dict[str, int]:
        """What only a server can do, in its own words."""
        chosen = {name: getattr(self, name) for name in CLUSTER_SETTINGS}
        return {name: value for name, value in chosen.items() if value is not None}


DEFAULT_SETTINGS = IndexSettings()
CLUSTER_SETTINGS = ("shard_number", "replication_factor", "write_consistency_factor")


@dataclass(frozen=True, slots=True)
class CollectionMetadata:
    """What a collection says of itself.

    quantisation: one of `quantisation.CHOICES`. measured: figures of the last `verify`, if any.
    """

    profile: ProfileIdentity
    quantisation: str = DEFAULT
    settings: IndexSettings = IndexSettings()
    search: SearchSettings = SearchSettings()
    measured: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.quantisation not in CHOICES:
            raise InvalidInput(f"quantisation {self.quantisation!r} is refused: use one of {', '.join(CHOICES)}")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON value, as stored in the collection."""
        return {
            "format": FORMAT,
            "profile": self.profile.as_dict(),
            "profile_hash": self.profile.hash,
            "quantisation": {"vector": RECALL, "name": self.quantisation, "codes": "ram"},
            "settings": asdict(self.settings),
            "search": asdict(self.search),
            "measured": dict(self.measured or {}),
        }

    @classmethod
    def from_dict(cls, name: str, value: Mapping[str, Any]) -> CollectionMetadata:
        """Inverse of `as_dict`. Raises MissingIndex if collection `name` was not made by this product."""
        if not is_ours(value):
            raise MissingIndex(
                f"collection {name!r} holds other data than training images, or is of an earlier release: "
                "choose another name and index the images there"
            )
        return cls(
            profile=ProfileIdentity.from_dict(value["profile"]),
            quantisation=str(value["quantisation"]["name"]),
            settings=IndexSettings(**value.get("settings", {})),
            search=SearchSettings.from_metadata(value),
            measured=value.get("measured") or None,
        )

    def rebuilt(self, quantisation: str, settings: IndexSettings) -> CollectionMetadata:
        """Of the collection rebuilt so: what was measured of other codes or another graph is forgotten."""
        if (quantisation, settings) == (self.quantisation, self.settings):
            return self
        return CollectionMetadata(self.profile, quantisation, settings)

    def with_search(self, search: SearchSettings, measured: Mapping[str, Any]) -> CollectionMetadata:
        """The same with other search settings, and the figures they were chosen by."""
        return replace(self, search=search, measured=measured)


def is_ours(metadata: Mapping[str, Any]) -> bool:
    """Whether a collection of this metadata was made by this release of the product."""
    return metadata.get("format") == FORMAT and "profile" in metadata


def duplicate_group(payload: Mapping[str, Any]) -> TrainingImageId | None:
    """The first of a point's near-copies; None if it has none, or if nobody has looked yet."""
    text = payload.get(KEY_GROUP)
    return TrainingImageId(UUID(text)) if text else None


def measured_recall(metadata: Mapping[str, Any]) -> float | None:
    """recall@k that the last `index verify` found; None if it was never asked for."""
    found = [value for name, value in (metadata.get("measured") or {}).items() if re.fullmatch(r"recall_at_\d+", name)]
    return float(found[0]) if found and 0 < found[0] <= 1 else None


RECALL_TARGET = 0.99
"""Recall that `index verify` chooses search settings to reach."""

RECALL_FLOOR = 0.98
"""Recall below which an index is not to be trusted: `index verify` exits with 1, and the shipped alert fires."""

GROWTH_LIMIT = 0.2
"""Share by which a collection may grow before what `index verify` measured of it is old."""


def growth_since_verified(info: CollectionInfo) -> float | None:
    """Points added since the last `index verify`, as a share of those that it saw; None if it was never asked for."""
    measured = (info.metadata.get("measured") or {}).get("points")
    return None if not measured else info.points / float(measured) - 1


def outgrown(info: CollectionInfo) -> bool:
    """Whether a collection has grown by so much that its recall is to be measured again."""
    growth = growth_since_verified(info)
    return growth is not None and growth >= GROWTH_LIMIT


def require_profile(info: CollectionInfo, identity: ProfileIdentity) -> None:
    """Raise ProfileMismatch, naming both, unless the collection was built by profile `identity`."""
    built = CollectionMetadata.from_dict(info.name, info.metadata).profile
    if built.hash == identity.hash:
        return
    raise ProfileMismatch(
        f"collection {info.name!r} was built by profile {built.name!r} ({built.hash[:12]}), but {identity.name!r} "
        f"({identity.hash[:12]}) is in use, which differs in {', '.join(_differences(built, identity))}: "
        f"use profile {built.name!r}, or index the images anew into another collection"
    )


def _differences(built: ProfileIdentity, used: ProfileIdentity) -> list[str]:
    old, new = built.as_dict(), used.as_dict()
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]
