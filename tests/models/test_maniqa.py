"""MANIQA beside pyiqa's own forward pass, both with the same seeded weights."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pyiqa.archs.arch_util import uniform_crop

from gmvaluator.models.crops import chosen_crops, cut
from gmvaluator.models.maniqa import Maniqa, build

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
    return Maniqa(network, torch.device("cpu"), crops, precision)


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
    found = torch.cat([crop for _, crop in all_crops._all_crops([all_crops.prepare(image)])])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_the_quality_is_pyiqa_s(package: Any, all_crops: Maniqa) -> None:
    image = picture(320, 260)
    expected = float(package(as_pyiqa_reads(image))[0, 0])
    (found,) = all_crops.quality([all_crops.prepare(image)])
    assert 0 < expected < 1
    assert found == pytest.approx(expected, abs=1e-5)


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
    few = adapter(state, 3)
    assert few.quality([few.prepare(image)])[0] == pytest.approx(expected, abs=1e-5)


def test_images_that_share_passes_have_the_quality_they_have_alone(state: dict[str, torch.Tensor]) -> None:
    few = adapter(state, 3)
    inputs = [few.prepare(picture(*size)) for size in ((300, 300), (100, 80), (900, 500))]
    calls: list[int] = []
    together = few.quality(inputs, lambda: calls.append(1))
    assert len(calls) == 2  # nine crops, four a pass: a break after the first and the second
    np.testing.assert_allclose(together, [few.quality([one])[0] for one in inputs], rtol=0, atol=1e-5)


def test_lower_precision_stays_near(state: dict[str, torch.Tensor]) -> None:
    image = picture(300, 300)
    exact, low = adapter(state, 1), adapter(state, 1, "bf16")
    difference = exact.quality([exact.prepare(image)]) - low.quality([low.prepare(image)])
    assert abs(float(difference[0])) < 0.01


def test_timm_s_backbone_is_not_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def create(name: str, pretrained: bool, **_: object) -> Any:
        asked.append(pretrained)
        raise InterruptedError(name)

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(InterruptedError, match="vit_base_patch8_224"):
        build("maniqa-pipal")
    assert asked == [False]
