"""Embeddings that clients compute: their windows and local features are checked like their vectors."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from attributor.core.attribution import Embedded, ImageRequest, Stopwatch
from attributor.core.image_embedding import EmbeddedImage, QueryEmbedder
from gmvaluator.errors import InvalidVector, PreconditionFailed
from gmvaluator.ids import GenerationId
from gmvaluator.ledger.records import ImageFacts
from gmvaluator.ports import Float32Array
from gmvaluator.profile import ProfileIdentity
from gmvaluator.testing.index import example_features
from gmvaluator.testing.models import FAKE_IDENTITY
from gmvaluator.windows import WINDOWS

WITH_PARTS = replace(FAKE_IDENTITY, windows="cut", local_features="sift")


def unit_rows(count: int, dimension: int) -> Float32Array:
    rows = np.random.default_rng(1).normal(size=(count, dimension))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32).ravel()


async def embedded(identity: ProfileIdentity, **changes: Any) -> EmbeddedImage:
    fields: dict[str, Any] = {
        "profile_hash": identity.hash,
        "facts": ImageFacts("0" * 64, 100, 80, 1_000),
        "recall": unit_rows(1, identity.recall_dim),
        "perceptual": unit_rows(2, identity.perceptual_dim),
        "quality": 0.5,
        "windows": unit_rows(len(WINDOWS), identity.recall_dim),
        "local": example_features(9),
        **changes,
    }
    worker: Any = SimpleNamespace(models=SimpleNamespace(identity=identity))
    decoder: Any = None
    request = ImageRequest("local", GenerationId("g"), "demo", None, datetime.now(UTC), embedded=Embedded(**fields))
    return await QueryEmbedder(worker, decoder, None).embed(request, True, Stopwatch(), False)


async def test_windows_and_local_features_come_with_the_vectors() -> None:
    image = await embedded(WITH_PARTS)
    assert image.features.windows.shape == (len(WINDOWS), WITH_PARTS.recall_dim)
    assert image.features.perceptual.shape == (2, WITH_PARTS.perceptual_dim)
    assert image.local is not None


async def test_a_profile_without_windows_takes_none() -> None:
    assert len((await embedded(FAKE_IDENTITY)).features.windows) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"local": None}, "embedding.local_features is empty"),
        ({"windows": np.empty(0, np.float32)}, "embedding.windows has 0 numbers"),
        ({"windows": unit_rows(len(WINDOWS) - 1, WITH_PARTS.recall_dim)}, "embedding.windows has"),
        ({"windows": np.full(len(WINDOWS) * WITH_PARTS.recall_dim, np.nan, np.float32)}, "embedding.windows"),
        ({"windows": 2 * unit_rows(len(WINDOWS), WITH_PARTS.recall_dim)}, "embedding.windows"),
    ],
    ids=["no features", "no windows", "too few", "not finite", "too long"],
)
async def test_windows_that_do_not_fit_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidVector, match=message):
        await embedded(WITH_PARTS, **changes)


async def test_an_embedding_of_another_profile_is_refused() -> None:
    with pytest.raises(PreconditionFailed, match="the embedding is of profile"):
        await embedded(WITH_PARTS, profile_hash=FAKE_IDENTITY.hash)
