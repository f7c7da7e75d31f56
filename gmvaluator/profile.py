"""The identity of a profile, which decides whether two embeddings are comparable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gmvaluator.errors import InvalidImage

SMALLEST_SIDE_PX: Mapping[str, int] = {"lite": 16, "paper": 16}
"""By profile: the shorter side, in pixels, from which an image can be valued. From copies of that size `lite` finds
four of five works again as the nearest of all, from copies of half the size one of three."""


@dataclass(frozen=True, slots=True)
class ProfileIdentity:
    """Everything that changes a vector or a quality: vectors of equal identities are comparable.

    recall_dim, perceptual_dim: dimensions of the vectors. precision: "fp32", "bf16" or "int8". weights: role of each
    weight file to its SHA-256. perceptual_views: number of perceptual vectors of a training image, each of another view
    of it; a generated image has one. local_features: how keypoints are found and described, "" for a profile that
    verifies nothing. windows: how parts of a generated image are embedded, "" for a profile that does not.
    """

    name: str
    recall_model: str
    perceptual_model: str
    quality_model: str
    recall_dim: int
    perceptual_dim: int
    precision: str
    weights: Mapping[str, str]
    perceptual_views: int = 1
    local_features: str = ""
    windows: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return a plain JSON value, as stored in a collection's metadata and in evidence."""
        value = {**asdict(self), "weights": dict(sorted(self.weights.items()))}
        # Absent, as before there were such things: a profile without them keeps its hash.
        if self.perceptual_views == 1:
            del value["perceptual_views"]
        for name in ("local_features", "windows"):
            if not value[name]:
                del value[name]
        return value

    @property
    def hash(self) -> str:
        """The SHA-256 of the canonical JSON of `as_dict`, 64 hex digits."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def smallest_side_px(self) -> int:
        """The shorter side from which an image can be valued; no part of the hash, as it changes no vector."""
        return SMALLEST_SIDE_PX.get(self.name, 1)

    def check_size(self, width: int, height: int) -> None:
        """Raise InvalidImage for an image that is too small to be valued."""
        if min(width, height) < self.smallest_side_px:
            raise InvalidImage(
                f"the image is {width} x {height} pixels, too small to be valued: profile {self.name} values images "
                f"whose sides have {self.smallest_side_px} pixels or more"
            )

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ProfileIdentity:
        """Parse the output of `as_dict`; unknown keys are ignored."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})
