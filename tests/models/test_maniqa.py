"""MANIQA next to pyiqa's own forward pass, both with the same seeded weights."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pyiqa.archs.arch_util import uniform_crop

from gmvaluator.errors import ModelFailed
from gmvaluator.models.device import Runtime
from gmvaluator.models.maniqa import Maniqa, build
from gmvaluator.models.preprocessing import Pixels, chosen_crops, crops_if_smaller, cut
from tests.golden.models import check_golden

pytestmark = [pytest.mark.models, pytest.mark.timeout(1800)]


def picture(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(width).integers(0, 255, (9, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def package() -> Any:
    torch.manual_seed(3)
    network: Any = build("maniqa")
    return network


@pytest.fixture(scope="module")
def state(package: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in package.state_dict().items()}


def adapter(state: dict[str, torch.Tensor], crops: int, precision: str = "fp32") -> Maniqa:
    network = build("maniqa")
    network.load_state_dict(state)
    return Maniqa(network, Runtime(torch.device("cpu"), precision), crops)


def prepared(image: Image.Image, crops: int) -> Pixels:
    return crops_if_smaller(np.asarray(image).transpose(2, 0, 1), crops)


def quality(model: Maniqa, inputs: list[Pixels]) -> list[float]:
    """Score the inputs completely, slice by slice."""
    qualities = model.quality_slice(inputs)
    while None in qualities:
        qualities = model.quality_slice(inputs)
    return [value for value in qualities if value is not None]


@pytest.fixture(scope="module")
def all_crops(state: dict[str, torch.Tensor]) -> Maniqa:
    return adapter(state, 20)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def as_pyiqa_reads(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).float().div(255)[None]


@pytest.mark.parametrize("size", [(320, 260), (224, 500), (120, 90), (7, 40), (900, 700)])
def test_the_crops_are_pyiqa_s(package: Any, all_crops: Maniqa, size: tuple[int, int]) -> None:
    image = picture(*size)
    normal = (as_pyiqa_reads(image) - package.default_mean) / package.default_std
    expected = uniform_crop(normal, crop_size=224, crop_num=20)
    crops = torch.cat([*all_crops.crops(prepared(image, 20), 0, 20)])
    torch.testing.assert_close(crops, expected, rtol=0, atol=1e-6)


def test_the_quality_is_pyiqa_s(package: Any, all_crops: Maniqa) -> None:
    image = picture(320, 260)
    expected = float(package(as_pyiqa_reads(image))[0, 0])
    (value,) = quality(all_crops, [prepared(image, 20)])
    assert 0 < expected < 1
    assert value == pytest.approx(expected, abs=1e-5)
    check_golden("maniqa", np.array([value], np.float32))


def test_fewer_crops_are_pyiqa_s_quality_of_those(package: Any, state: dict[str, torch.Tensor]) -> None:
    image = picture(500, 400)
    pixels = as_pyiqa_reads(image)
    three = [cut(pixels, top, left) for top, left in chosen_crops(400, 500, 3)]
    package.test_sample = 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "pyiqa.archs.maniqa_arch.uniform_crop",
            lambda _, **__: (torch.cat(three) - package.default_mean) / package.default_std,
        )
        expected = float(package(pixels)[0, 0])
    package.test_sample = 20
    (value,) = quality(adapter(state, 3), [prepared(image, 3)])
    assert value == pytest.approx(expected, abs=1e-5)


def test_images_that_share_passes_have_the_quality_they_have_alone(state: dict[str, torch.Tensor]) -> None:
    inputs = [prepared(picture(*size), 3) for size in ((300, 300), (100, 80), (900, 500))]
    together = adapter(state, 3)
    first = together.quality_slice(inputs)
    assert first[0] is not None  # three of its crops in the first pass, and one of the second image's
    assert first[1:] == [None, None]
    alone = [quality(adapter(state, 3), [pixels])[0] for pixels in inputs[:2]]
    np.testing.assert_allclose(quality(together, inputs)[:2], alone, rtol=0, atol=1e-5)


def test_the_same_pixels_are_scored_once(state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = adapter(state, 1), prepared(picture(300, 300), 1)
    (value,) = quality(model, [pixels])
    monkeypatch.setattr(model, "_network", None)
    assert quality(model, [pixels.copy(), pixels]) == [value, value]


def test_what_is_not_finite_is_refused_and_not_remembered(state: dict[str, torch.Tensor]) -> None:
    model, pixels = adapter(state, 1), prepared(picture(300, 300), 1)
    working = model._network
    model._network = lambda crops: torch.full((len(crops), 2), torch.nan)  # type: ignore[assignment]
    with pytest.raises(ModelFailed, match="row 0 "):
        quality(model, [pixels])
    model._network = working
    assert 0 <= quality(model, [pixels])[0] <= 1


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precision_stays_near(state: dict[str, torch.Tensor], precision: str) -> None:
    pixels = prepared(picture(300, 300), 1)
    (exact,), (low,) = (quality(adapter(state, 1, kind), [pixels]) for kind in ("fp32", precision))
    assert low == pytest.approx(exact, abs=0.01)


def test_timm_s_backbone_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained_options: list[bool] = []

    def create(name: str, pretrained: bool, **_: object) -> Any:
        pretrained_options.append(pretrained)
        raise InterruptedError(name)

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(InterruptedError, match="vit_base_patch8_224"):
        build("maniqa-pipal")
    assert pretrained_options == [False]
