"""What every profile's models keep, fakes included."""

import numpy as np
import pytest
from PIL import Image

from gmvaluator.errors import ModelFailed
from gmvaluator.images import decode_image
from gmvaluator.models.profiles import load_models
from gmvaluator.ports import Models, Prepared
from gmvaluator.samples import sample_folder
from gmvaluator.testing.models import FakeModels

COUNT = 19
"""More than two passes of `lite`, and no multiple of them."""


@pytest.fixture(scope="module", params=["lite", "fake"])
def models(request: pytest.FixtureRequest) -> Models:
    return FakeModels() if request.param == "fake" else load_models(request.param)


@pytest.fixture(scope="module")
def inputs(models: Models) -> list[Prepared]:
    paths = sorted((sample_folder("openclipart") / "images").glob("*.webp"))[: COUNT * 40 : 40]
    return [models.prepare(decode_image(path.read_bytes())) for path in paths]


def test_rows_have_the_identity_s_dimensions(models: Models, inputs: list[Prepared]) -> None:
    embeddings = models.embed(inputs)
    assert embeddings.recall.shape == (COUNT, models.identity.recall_dim)
    assert embeddings.perceptual.ndim == 3
    assert embeddings.perceptual.shape[::2] == (COUNT, models.identity.perceptual_dim)
    assert embeddings.recall.dtype == embeddings.perceptual.dtype == np.float32


def test_vectors_have_unit_norm(models: Models, inputs: list[Prepared]) -> None:
    embeddings = models.embed(inputs)
    for vectors in (embeddings.recall, embeddings.perceptual):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-6)


def test_quality_lies_between_0_and_1_and_is_the_same_asked_alone(models: Models, inputs: list[Prepared]) -> None:
    quality = models.embed(inputs).quality
    assert quality is not None
    assert quality.shape == (COUNT,)
    assert quality.dtype == np.float32
    assert ((quality >= 0) & (quality <= 1)).all()
    np.testing.assert_array_equal(quality, models.quality(inputs))


@pytest.mark.parametrize("batch", [1, 3, 8, 16])
def test_a_batch_equals_singles(models: Models, inputs: list[Prepared], batch: int) -> None:
    whole = models.embed(inputs)
    assert whole.quality is not None
    for start in range(0, COUNT, batch):
        rows = slice(start, start + batch)
        part = models.embed(inputs[rows])
        assert part.quality is not None
        np.testing.assert_allclose(part.recall, whole.recall[rows], rtol=0, atol=1e-5)
        np.testing.assert_allclose(part.perceptual, whole.perceptual[rows], rtol=0, atol=1e-5)
        np.testing.assert_allclose(part.quality, whole.quality[rows], rtol=0, atol=1e-5)


def test_neighbours_in_a_batch_do_not_matter(models: Models, inputs: list[Prepared]) -> None:
    order = np.random.default_rng(1).permutation(COUNT)
    in_order, shuffled = models.embed(inputs), models.embed([inputs[row] for row in order])
    np.testing.assert_allclose(shuffled.recall, in_order.recall[order], rtol=0, atol=1e-5)
    np.testing.assert_allclose(shuffled.perceptual, in_order.perceptual[order], rtol=0, atol=1e-5)


def test_inputs_are_left_as_they_were_and_need_not_be_writeable(models: Models, inputs: list[Prepared]) -> None:
    locked = [Prepared.shared(prepared.recall.copy()) for prepared in inputs[:2]]
    for prepared in locked:
        prepared.recall.flags.writeable = False
    models.embed(locked)
    for prepared, original in zip(locked, inputs, strict=False):
        np.testing.assert_array_equal(prepared.recall, original.recall)


def test_a_row_that_is_not_finite_fails_the_batch(models: Models, inputs: list[Prepared]) -> None:
    nothing = Prepared.shared(np.full_like(inputs[2].recall, np.nan))
    broken = [*inputs[:2], nothing, inputs[3]]
    with pytest.raises(ModelFailed):
        models.embed(broken)


@pytest.mark.parametrize("size", [(1, 1), (200, 1), (1, 200), (31, 4000)])
def test_any_shape_can_be_prepared(models: Models, inputs: list[Prepared], size: tuple[int, int]) -> None:
    prepared = models.prepare(Image.new("RGB", size, "teal"))
    assert prepared.recall.shape == inputs[0].recall.shape
    assert prepared.recall.dtype == inputs[0].recall.dtype
    assert np.isfinite(models.embed([prepared]).recall).all()


def test_a_work_s_views_are_the_identity_s_and_the_whole_is_nearest_to_itself(
    models: Models, inputs: list[Prepared]
) -> None:
    path = min((sample_folder("openclipart") / "images").glob("*.webp"))
    image = decode_image(path.read_bytes())
    works = models.embed_works([models.prepare_work(image)])
    identity = models.identity
    assert works.recall.shape == (1, identity.recall_dim)
    assert works.perceptual.shape == (1, identity.perceptual_views, identity.perceptual_dim)
    np.testing.assert_allclose(np.linalg.norm(works.perceptual, axis=-1), 1, atol=1e-6)
    query = models.embed([models.prepare(image)])
    np.testing.assert_allclose(works.recall, query.recall, rtol=0, atol=1e-5)
    assert (query.perceptual[0] @ works.perceptual[0].T).max() == pytest.approx(1, abs=1e-5)
    others = models.embed(inputs[1:]).perceptual @ works.perceptual[0].T
    assert others.max() < 1
