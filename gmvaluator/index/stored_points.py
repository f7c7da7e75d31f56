"""Points of a collection: conversion from what qdrant-client returns, and the checks of their vectors on both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
from qdrant_client import models

from gmvaluator.errors import InvalidVector
from gmvaluator.ids import TrainingImageId
from gmvaluator.index.engine.checksums import CHECKSUM, damage
from gmvaluator.index.schema import KEY_LOCAL_FEATURES, PERCEPTUAL, RECALL
from gmvaluator.index.vectors import all_fit, checked_vector, checked_vectors, damaged_work
from gmvaluator.keypoints import LocalFeatures
from gmvaluator.ports import Float32Array, Point
from gmvaluator.profile import ProfileIdentity

_CALL_FLOATS = 512 * 1024
"""Limit of the floats in the vectors of one call: 2 MiB."""

_EMPTY = np.empty(0, dtype=np.float32)


def record_id(record: models.Record | models.ScoredPoint) -> TrainingImageId:
    """Return the id of a stored point."""
    return TrainingImageId(UUID(str(record.id)))


def point_of(record: models.Record, profile: ProfileIdentity | None) -> Point:
    """Convert a stored point. profile: of its vectors; None if they were not requested. Raises IndexFailed."""
    image_id, payload = record_id(record), record.payload or {}
    if profile is None:
        return Point(image_id, _EMPTY, _EMPTY, payload)
    if reason := record_damage(record, profile):
        raise damaged_work(image_id, reason)
    recall, perceptual = _stored_vectors(record, profile)
    return Point(image_id, recall, perceptual, payload)


def record_damage(record: models.Record, profile: ProfileIdentity) -> str:
    """Return what is wrong with the vectors of a stored point; empty if nothing is."""
    try:
        recall, perceptual = _stored_vectors(record, profile)
    except InvalidVector as error:
        return str(error)
    return damage({RECALL: recall, PERCEPTUAL: perceptual}, (record.payload or {}).get(CHECKSUM))


def stored_local_features(payload: Mapping[str, Any]) -> LocalFeatures | None:
    """Return the local features in a stored point's payload; None if it has none. Raises InvalidVector."""
    text = payload.get(KEY_LOCAL_FEATURES)
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidVector(f"local features are not text but {type(text).__name__}")
    return LocalFeatures.from_text(text)


def checked_views(vectors: npt.ArrayLike, profile: ProfileIdentity, subject: str) -> Float32Array:
    """Return a training image's perceptual vectors as (V, P) float32. Raises InvalidVector about `subject`."""
    return checked_vectors(vectors, profile.perceptual_views, profile.perceptual_dim, subject)


def _stored_vectors(record: models.Record, profile: ProfileIdentity) -> tuple[Float32Array, Float32Array]:
    vectors: Any = record.vector or {}
    recall = checked_vector(vectors.get(RECALL, ()), profile.recall_dim, f"the {RECALL} vector")
    return recall, checked_views(vectors.get(PERCEPTUAL, ()), profile, f"the {PERCEPTUAL} vectors")


def check_points(points: Sequence[Point], profile: ProfileIdentity) -> None:
    """Raise InvalidVector about the first point whose vectors do not have the profile's shape or unit norm."""
    views = (profile.perceptual_views, profile.perceptual_dim)
    recalls, perceptuals = zip(*map(vectors_of, points), strict=True)
    if all_fit(recalls, (profile.recall_dim,)) and all_fit(perceptuals, views):
        return
    for point in points:
        subject = f"training image {point.training_image_id}"
        checked_vector(point.recall, profile.recall_dim, f"the {RECALL} vector of {subject}")
        checked_views(point.perceptual, profile, f"the {PERCEPTUAL} vectors of {subject}")


def vectors_of(point: Point) -> tuple[Float32Array, Float32Array]:
    """Return the `recall` vector (D,) and the `perceptual` vectors (V, P) of a point."""
    return np.asarray(point.recall, np.float32), np.asarray(point.perceptual, np.float32)


def points_per_call(profile: ProfileIdentity, limit: int) -> int:
    """Return the points that one call may carry with their vectors: at most `limit`, at least one."""
    floats = profile.recall_dim + profile.perceptual_views * profile.perceptual_dim
    return max(1, min(limit, _CALL_FLOATS // floats))
