"""Profile `lite`: golden vectors, its pins, the order of its qualities, and what it refuses."""

import csv
import dataclasses
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.ndimage
import timm
import torch
from PIL import Image, ImageOps

from evaluation.images.distortions import KINDS, distort
from evaluation.training.lite_graph import lite_graph, shipped_shapes
from gmvaluator.errors import InvalidImage, MissingWeights, ModelFailed, PreconditionFailed
from gmvaluator.images import decode_image
from gmvaluator.local_features import detection
from gmvaluator.models import lite, lite_network, lite_onnx, lite_weights
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.device import Runtime
from gmvaluator.models.lite import CHUNK_ROWS, LiteModels
from gmvaluator.models.lite_views import SIDE_PX, prepare, prepare_large, unit_range
from gmvaluator.models.profiles import load_models, profile_identity
from gmvaluator.models.specs import DATA
from gmvaluator.ports import Float32Array, Models, Prepared
from gmvaluator.samples import sample_folder
from gmvaluator.windows import WINDOWS

SAMPLE = sample_folder("openclipart")
GOLDEN = Path(__file__).parents[2] / "golden" / "lite.npz"


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models("lite")


def sample_image(key: str) -> Image.Image:
    return decode_image((SAMPLE / "images" / f"{key}.webp").read_bytes())


def one_of_each_owner() -> list[Image.Image]:
    with (SAMPLE / "manifest.csv").open(encoding="utf-8", newline="") as lines:
        keys = {row["owner_id"]: row["key"] for row in csv.DictReader(lines)}
    return [sample_image(key) for key in keys.values()]


def qualities(models: Models, images: list[Image.Image]) -> Float32Array:
    return models.quality([models.prepare(image) for image in images])


def test_golden_vectors(models: Models) -> None:
    """Tolerance 1e-4: other processors and versions of torch sum in another order."""
    golden = np.load(GOLDEN)
    assert str(golden["profile"]) == profile_identity("lite").hash, "run `python -m tests.golden.write_lite`"
    embeddings = models.embed([models.prepare(sample_image(str(key))) for key in golden["keys"]])
    assert embeddings.quality is not None
    np.testing.assert_allclose(embeddings.recall, golden["recall"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(embeddings.perceptual, golden["perceptual"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(embeddings.quality, golden["quality"], rtol=0, atol=1e-4)


def test_a_work_is_nearest_to_its_own_derivative(models: Models) -> None:
    images = one_of_each_owner()
    works = models.embed([models.prepare(image) for image in images])
    mirrored = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images]
    queries = models.embed([models.prepare(image) for image in mirrored])
    for vectors, rows in ((works.recall, queries.recall), (works.perceptual[:, 0], queries.perceptual[:, 0])):
        assert (np.argmax(rows @ vectors.T, axis=1) == np.arange(len(images))).mean() > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_clean_images_lie_above_their_distorted_copies(models: Models, kind: str) -> None:
    """Return one work of each of 26 artists on whose works the head was not trained; docs/results covers all works."""
    clean = one_of_each_owner()
    distorted = [distort(kind, 3, image, random.Random(number)) for number, image in enumerate(clean)]
    assert (qualities(models, clean) > qualities(models, distorted)).mean() >= 0.9


def test_rows_are_independent_of_the_pass_they_are_in(models: Models) -> None:
    """To the bit, on one machine: credits do not depend on other callers' images."""
    inputs = [models.prepare(image) for image in one_of_each_owner()[: CHUNK_ROWS + 3]]
    whole = models.embed(inputs)
    for row in (0, CHUNK_ROWS - 1, CHUNK_ROWS + 2):
        single = models.embed(inputs[row : row + 1])
        np.testing.assert_array_equal(single.recall[0], whole.recall[row])
        np.testing.assert_array_equal(single.perceptual[0], whole.perceptual[row])


def test_an_image_embedded_whole_has_its_recall_vector(models: Models) -> None:
    assert isinstance(models, LiteModels)
    inputs = [models.prepare(Image.new("RGB", (90, 60), colour)) for colour in ("red", "navy", "olive")]
    np.testing.assert_allclose(models.embed_whole(inputs), models.embed(inputs).recall, atol=1e-5)


def test_folding_changes_no_sum() -> None:
    """The backbone against timm's own, layer by layer as it builds it: up to rounding."""
    plain: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    backbone = lite_network.Backbone(plain.state_dict())
    inputs = torch.rand(2, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        expected = plain.forward_features(inputs).mean(dim=(2, 3))
        pooled, _ = backbone(inputs.to(memory_format=torch.channels_last))
    torch.testing.assert_close(pooled[:, -1280:], expected, rtol=1e-4, atol=1e-5)


def pinned_backbone() -> dict[str, npt.NDArray[Any]]:
    return lite_weights.pinned_tensors(lite_weights.BACKBONE_FILE, profile_identity("lite").weights["backbone"])


def test_onnx_runtime_computes_what_torch_does(models: Models) -> None:
    """Golden vectors are torch's: both backbones agree on the features, and so on everything after them."""
    inputs = np.stack([models.prepare(image).recall for image in one_of_each_owner()[:3]])
    runtime = lite_onnx.OnnxBackbone(pinned_backbone(), threads=1)(inputs)
    torch_backbone = lite_network.TorchBackbone(pinned_backbone(), Runtime(torch.device("cpu")))(inputs)
    for got, expected in ((runtime.pooled, torch_backbone.pooled), (runtime.texture, torch_backbone.texture)):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-4)
    heads = lite_weights.Heads(
        lite_weights.pinned_tensors(lite_weights.HEADS_FILE, profile_identity("lite").weights["heads"])
    )
    for got, expected in zip(heads(runtime), heads(torch_backbone), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


def test_maps_of_onnx_runtime_are_those_of_torch(models: Models) -> None:
    inputs = unit_range(np.stack([prepare_large(image) for image in one_of_each_owner()[:2]]))
    runtime = lite_onnx.OnnxBackbone(pinned_backbone(), threads=1).maps(inputs)
    torch_maps = lite_network.TorchBackbone(pinned_backbone(), Runtime(torch.device("cpu"), "fp32")).maps(inputs)
    for ours, theirs in zip(runtime, torch_maps, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_a_window_of_a_collage_is_near_the_work_that_fills_it(models: Models) -> None:
    images = [ImageOps.pad(image, (256, 256), color=(255, 255, 255)) for image in one_of_each_owner()[:4]]
    collage = Image.new("RGB", (512, 512))
    for number, image in enumerate(images):
        collage.paste(image, (256 * (number % 2), 256 * (number // 2)))
    (windows,) = models.embed([models.prepare(collage)]).windows or ()
    works = models.embed([models.prepare(image) for image in images]).recall
    quadrants = [row for row, box in enumerate(WINDOWS) if (box.right - box.left, box.bottom - box.top) == (0.5, 0.5)][
        :4
    ]
    assert (windows[quadrants] @ works.T).argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert (np.diag(windows[quadrants] @ works.T) > 0.7).all()


def test_an_image_prepared_without_its_parts_is_embedded_as_a_whole(models: Models) -> None:
    image = sample_image("animals-2-dead-frogs-lumen-desig-01")
    whole = models.prepare(image, parts=False)
    assert (whole.windows, whole.local) == (None, None)
    embeddings = models.embed([models.prepare(image), whole])
    assert embeddings.windows is not None
    assert [len(windows) for windows in embeddings.windows] == [len(WINDOWS), 0]
    np.testing.assert_array_equal(embeddings.recall[0], embeddings.recall[1])


def test_a_window_that_is_not_finite_names_its_image(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(models, LiteModels)
    inputs = [models.prepare(Image.new("RGB", (64, 64), colour)) for colour in ("red", "navy", "olive")]
    computed = models._backbone.maps

    def maps(images: Float32Array) -> Sequence[Float32Array]:
        # Two images share a pass over their windows, so that the third has one of its own.
        values = computed(images)
        return values if len(images) > 1 else [np.full_like(stage, np.nan) for stage in values]

    monkeypatch.setattr(models._backbone, "maps", maps)
    with pytest.raises(ModelFailed, match="row 2 of the batch"):
        models.embed(inputs)


def test_the_identity_names_how_local_features_are_made() -> None:
    assert profile_identity("lite").local_features == detection.KIND


def test_the_shipped_graph_is_the_one_that_its_tool_writes() -> None:
    expected = lite_graph(shipped_shapes()).SerializeToString(deterministic=True)
    assert (DATA / lite_onnx.GRAPH_FILE).read_bytes() == expected


def test_a_cpu_needs_no_torch() -> None:
    program = (
        "import sys\n"
        "from PIL import Image\n"
        "from gmvaluator.models.multi_device import load_on_every_device\n"
        "models = load_on_every_device('lite', 'cpu', 1)\n"
        "models.embed([models.prepare(Image.new('RGB', (64, 64)))])\n"
        "assert not {'torch', 'timm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("damage", ["absent", "cut short", "another file"])
def test_a_damaged_graph_is_one_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str) -> None:
    graph = (DATA / lite_onnx.GRAPH_FILE).read_bytes()
    if damage != "absent":
        (tmp_path / lite_onnx.GRAPH_FILE).write_bytes(graph[:999] if damage == "cut short" else b"not a graph")
    monkeypatch.setattr(lite_onnx, "DATA", tmp_path)
    with pytest.raises(MissingWeights, match="reinstall gmvaluator"):
        lite_onnx.OnnxBackbone(pinned_backbone(), threads=1)


def test_the_blur_is_a_gaussian_that_repeats_edges() -> None:
    pixels = np.random.default_rng(4).random((2, 3, 30, 40), np.float32)
    expected = scipy.ndimage.gaussian_filter(pixels, lite_weights.BLUR_SIGMA_PX, mode="nearest", radius=11, axes=(2, 3))
    np.testing.assert_allclose(lite_weights.blur(pixels), expected, rtol=0, atol=1e-6)


def test_the_whole_image_is_kept_on_white() -> None:
    wide = np.asarray(prepare(Image.new("RGB", (100, 50), (0, 0, 0))))
    assert wide.shape == (3, SIDE_PX, SIDE_PX)
    assert (wide[:, : SIDE_PX // 4 - 1] == 1).all()
    assert (wide[:, SIDE_PX // 4 : -SIDE_PX // 4] == -1).all()
    assert (wide[:, -SIDE_PX // 4 + 1 :] == 1).all()


def test_only_rgb_is_prepared(models: Models) -> None:
    with pytest.raises(InvalidImage, match="RGBA"):
        models.prepare(Image.new("RGBA", (8, 8)))


def test_a_broken_row_is_named(models: Models) -> None:
    inputs = [Prepared.shared(np.zeros((3, SIDE_PX, SIDE_PX), np.float32))] * (CHUNK_ROWS + 1)
    inputs.append(Prepared.shared(np.full((3, SIDE_PX, SIDE_PX), np.inf, np.float32)))
    with pytest.raises(ModelFailed, match=f"row {CHUNK_ROWS + 1} "):
        models.embed(inputs)


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [np.zeros((3, 8, 8), np.float32)],
        [np.zeros((1, 3, SIDE_PX, SIDE_PX), np.float32)],
        [np.zeros((3, SIDE_PX, SIDE_PX), np.float64)],
    ],
    ids=["no rows", "another size", "a batch", "another type"],
)
def test_inputs_of_another_shape_are_refused(models: Models, inputs: list[npt.NDArray[Any]]) -> None:
    with pytest.raises(ModelFailed, match="from prepare"):
        models.embed([Prepared.shared(pixels) for pixels in inputs])


@pytest.mark.parametrize("role", ["backbone", "heads"])
def test_other_weights_than_the_pinned_are_refused(role: str) -> None:
    identity = profile_identity("lite")
    other = dataclasses.replace(identity, weights={**identity.weights, role: "0" * 64})
    with pytest.raises(MissingWeights, match="0000"):
        lite.load(ProfileChoice(), other)


def test_absent_weights_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lite_weights, "DATA", tmp_path)
    with pytest.raises(MissingWeights, match="reinstall gmvaluator"):
        load_models("lite")


def test_an_unusable_device_is_refused() -> None:
    with pytest.raises(PreconditionFailed, match="use cpu"):
        load_models("lite", device="abacus")


def test_torch_s_failure_becomes_ours() -> None:
    backbone = lite_network.TorchBackbone(pinned_backbone(), Runtime(torch.device("cpu")))
    with pytest.raises(ModelFailed, match="lite models failed"):
        backbone(np.zeros((1, 4, SIDE_PX, SIDE_PX), np.float32))


def test_onnx_runtime_s_failure_becomes_ours() -> None:
    backbone = lite_onnx.OnnxBackbone(pinned_backbone(), threads=1)
    with pytest.raises(ModelFailed, match="lite models failed"):
        backbone(np.zeros((1, 4, SIDE_PX, SIDE_PX), np.float32))
