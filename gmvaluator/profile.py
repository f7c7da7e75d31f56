"""What makes two embeddings comparable: the identity of a profile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ProfileIdentity:
    """Names everything that changes a vector or a quality: equal identities, comparable vectors.

    weights maps each weight file's role to its SHA-256. precision is "fp32", "bf16" or "int8". perceptual_views: how
    many perceptual vectors a training image has, each of another view of it; a generated image has one.
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

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON value, keys sorted, as stored in a collection's metadata and in evidence."""
        value = {**asdict(self), "weights": dict(sorted(self.weights.items()))}
        if self.perceptual_views == 1:
            del value["perceptual_views"]  # as before there were views, so that such a profile keeps its hash
        return value

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON of `as_dict`, 64 hex digits."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ProfileIdentity:
        """Inverse of `as_dict`."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})
