"""A profile that compares pixels: features for queries and candidates, the recall vector for the index."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from gmvaluator.errors import ModelFailed
from gmvaluator.models.composed import PixelComparingModels
from gmvaluator.models.lite_weights import shipped_detector
from gmvaluator.models.preprocessing import NOTHING, Pixels, Preparation, Squash
from gmvaluator.ports import Float32Array, Prepared
from gmvaluator.testing.models import FAKE_IDENTITY


class Recall:
    """Unit vectors; counts its inputs."""

    def __init__(self) -> None:
        self.count = 0

    def embed(self, inputs: Sequence[Pixels]) -> Float32Array:
        self.count += len(inputs)
        return np.eye(FAKE_IDENTITY.recall_dim, dtype=np.float32)[: len(inputs)]


class Means:
    """The mean of each channel, of no particular norm."""

    def embed(self, inputs: Sequence[Pixels]) -> Float32Array:
        return np.stack([pixels.mean(axis=(1, 2)) for pixels in inputs]).astype(np.float32)


@pytest.fixture
def recall() -> Recall:
    return Recall()


@pytest.fixture
def models(recall: Recall) -> PixelComparingModels:
    return PixelComparingModels(
        FAKE_IDENTITY, Preparation(Squash(), Squash(), None, shipped_detector()), recall, Means(), None
    )


def test_a_query_gets_features_of_their_own_length(models: PixelComparingModels) -> None:
    rows = models.embed([models.prepare(Image.new("RGB", (30, 20), (10, 20, 30)))])
    assert rows.recall.shape == (1, FAKE_IDENTITY.recall_dim)
    np.testing.assert_allclose(rows.perceptual, [[10, 20, 30]])


def test_a_candidate_costs_no_recall(models: PixelComparingModels, recall: Recall) -> None:
    query = models.prepare(Image.new("RGB", (30, 20), (10, 20, 30)), parts=False)
    candidate = Prepared(NOTHING, query.perceptual, NOTHING)
    rows = models.embed([candidate, query, candidate])
    assert recall.count == 1
    assert not rows.recall[[0, 2]].any()
    assert rows.recall[1].any()
    np.testing.assert_array_equal(rows.perceptual[0], rows.perceptual[1])


def test_the_index_is_given_the_recall_vector_twice(models: PixelComparingModels) -> None:
    works = models.embed_works([models.prepare_work(Image.new("RGB", (30, 20), "teal"))])
    np.testing.assert_array_equal(works.perceptual[:, 0], works.recall)


def test_nothing_is_refused(models: PixelComparingModels) -> None:
    with pytest.raises(ModelFailed, match="no images"):
        models.embed([])
