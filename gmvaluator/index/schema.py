"""Schema of a collection: named vectors, payload keys, settings and metadata.

A point is one training image with two named vectors. `recall` is searched by approximate nearest neighbours: HNSW
over quantised codes in RAM, with the original vectors on disk for rescoring. `perceptual` holds one vector per view
of the image; it is only compared with recalled candidates, by the most similar view, and therefore has no graph and
is on disk. A collection has one large segment, because product quantisation is trained per segment.
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

DEFAULT_QUANTISATION = CHOICES[0]


def code_bytes(quantisation: str, dimension: int) -> int:
    """Return the size of one vector's code in bytes, without the engine's overhead."""
    return -(-4 * dimension // RATIOS[quantisation])


RECALL = "recall"
PERCEPTUAL = "perceptual"

KEY_SHA256 = "sha256"
KEY_KEY = "key"
KEY_URI = "uri"
KEY_TITLE = "title"
KEY_LABELS = "labels"
KEY_DATA_SET = "data_set"
KEY_GROUP = "duplicate_group"
KEY_LOCAL_FEATURES = "local_features"
"""Payload keys.

data_set is a list of names, by which recall can be filtered. duplicate_group is the id of the first image of a group of
near-duplicates (in the payload of that first image too), `ALONE` for an image without near-duplicates, and absent until
the image has been compared. Both keys have a payload index. local_features is the text of the image's `LocalFeatures`,
absent for a profile without them; it is larger than all else in a point, and only read where it is needed.
"""

ALONE = ""
"""Value of duplicate_group for an image without near-duplicates."""

DEFAULT_COLLECTION = "works"
DEFAULT_DEPTH = 200
"""Default number of candidates recalled before re-ranking."""

HNSW_M = 16
HNSW_EF_CONSTRUCT = 128

# Small collections are searched through the graph too, so that tests and demos exercise what large ones use.
FULL_SCAN_THRESHOLD_KB = 10
"""Size of the vectors of a filtered set, in KB, below which it is scanned instead of searched through the graph."""

# The smallest value there is: a single vector of 256 dimensions is quantised.
INDEXING_THRESHOLD_KB = 1
"""Size of unindexed vectors, in KB, from which a build indexes them."""

SEGMENTS = 1
MAX_SEGMENT_KB = 64 * 1024 * 1024
FORMAT = 2
"""Version of the metadata; a collection of another version has to be indexed again."""


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """Settings of a search on `recall`. Higher values increase recall and latency.

    oversampling: candidates found by code, as a multiple of the limit, that are rescored with the original vectors.
    hnsw_ef: size of the graph search's candidate list. rescore: False ranks by code alone.
    """

    oversampling: float = 4.0
    hnsw_ef: int = 256
    rescore: bool = True

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> SearchSettings:
        """Return the settings recorded in a collection's metadata, or the defaults."""
        return cls(**metadata.get("search", {}))


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """Storage settings of a collection, chosen when it is created or rebuilt.

    hnsw_m: edges per graph node; more increase recall and memory use. hnsw_ef_construct: candidates considered for
    each edge; more improve the graph and lengthen the build. on_disk: original vectors are read from disk, while
    codes stay in memory. shard_number, replication_factor, write_consistency_factor: settings of a Qdrant cluster;
    None keeps the server's default.
    """

    hnsw_m: int = HNSW_M
    hnsw_ef_construct: int = HNSW_EF_CONSTRUCT
    on_disk: bool = True
    shard_number: int | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None

    @property
    def cluster(self) -> dict[str, int]:
        """The configured cluster settings, by Qdrant's names; only a server supports them."""
        values = {name: getattr(self, name) for name in CLUSTER_SETTINGS}
        return {name: value for name, value in values.items() if value is not None}


DEFAULT_SETTINGS = IndexSettings()
CLUSTER_SETTINGS = ("shard_number", "replication_factor", "write_consistency_factor")


@dataclass(frozen=True, slots=True)
class CollectionMetadata:
    """Metadata stored with a collection.

    quantisation: one of `quantisation.CHOICES`. measured: figures of the last `verify`, if any. Raises InvalidInput for
    an unknown quantisation.
    """

    profile: ProfileIdentity
    quantisation: str = DEFAULT_QUANTISATION
    settings: IndexSettings = IndexSettings()
    search: SearchSettings = SearchSettings()
    measured: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.quantisation not in CHOICES:
            raise InvalidInput(f"quantisation {self.quantisation!r} is refused: use one of {', '.join(CHOICES)}")

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON value that is stored with the collection."""
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
        """Parse the value of `as_dict`. Raises MissingIndex if this product did not create collection `name`."""
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
        """Return the metadata after a rebuild with `quantisation` and `settings`.

        Search settings and measured figures are dropped if either changes: they describe other codes or another graph.
        """
        if (quantisation, settings) == (self.quantisation, self.settings):
            return self
        return CollectionMetadata(self.profile, quantisation, settings)

    def with_search(self, search: SearchSettings, measured: Mapping[str, Any]) -> CollectionMetadata:
        """Return a copy with `search` and the figures by which it was chosen."""
        return replace(self, search=search, measured=measured)


def is_ours(metadata: Mapping[str, Any]) -> bool:
    """Return whether a collection with this metadata was created by this product, in the current format."""
    return metadata.get("format") == FORMAT and "profile" in metadata


def duplicate_group(payload: Mapping[str, Any]) -> TrainingImageId | None:
    """Return the first image of a point's group of near-duplicates; None if it has no group or was never compared."""
    text = payload.get(KEY_GROUP)
    return TrainingImageId(UUID(text)) if text else None


def measured_recall(metadata: Mapping[str, Any]) -> float | None:
    """Return recall@k in (0, 1] as measured by the last `index verify`; None if it never ran."""
    measured = metadata.get("measured") or {}
    recalls = [value for name, value in measured.items() if re.fullmatch(r"recall_at_\d+", name)]
    return float(recalls[0]) if recalls and 0 < recalls[0] <= 1 else None


RECALL_TARGET = 0.99
"""Recall that the search settings chosen by `index verify` reach by default."""

RECALL_FLOOR = 0.98
"""Lowest acceptable recall: below it `index verify` exits with 1 and the shipped alert fires."""

GROWTH_LIMIT = 0.2
"""Growth of a collection, as a share, from which the figures of its last `index verify` are out of date."""


def growth_since_verified(info: CollectionInfo) -> float | None:
    """Return the points added since the last `index verify` as a share of the points then; None if it never ran."""
    measured = (info.metadata.get("measured") or {}).get("points")
    return None if not measured else info.points / float(measured) - 1


def outgrown(info: CollectionInfo) -> bool:
    """Return whether a collection has grown by `GROWTH_LIMIT`, so that its recall has to be measured again."""
    growth = growth_since_verified(info)
    return growth is not None and growth >= GROWTH_LIMIT


def require_profile(info: CollectionInfo, identity: ProfileIdentity) -> None:
    """Raise ProfileMismatch, naming both profiles, unless the collection was built by `identity`."""
    built = CollectionMetadata.from_dict(info.name, info.metadata).profile
    if built.hash == identity.hash:
        return
    raise ProfileMismatch(
        f"collection {info.name!r} was built by profile {built.name!r} ({built.hash[:12]}), but {identity.name!r} "
        f"({identity.hash[:12]}) is in use, which differs in {', '.join(_differences(built, identity))}: "
        f"use profile {built.name!r}, or index the images again into another collection"
    )


def _differences(built: ProfileIdentity, used: ProfileIdentity) -> list[str]:
    old, new = built.as_dict(), used.as_dict()
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]
