"""Recall by VGG-16, next to torchvision with the same seeded weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torchvision.models import VGG16_Weights, vgg16

from gmvaluator.models import vgg16 as adapter
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.device import Runtime
from gmvaluator.models.known_models import specs_of
from gmvaluator.models.preprocessing import VGG16_DEVIATION, VGG16_MEAN, VGG16_SIDE_PX, Vgg16Transform
from tests.golden.models import check_golden


def picture(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(width).integers(0, 255, (9, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(300, 200), (201, 333), (224, 224), (1000, 64)])
def test_the_pixels_are_torchvision_s(size: tuple[int, int]) -> None:
    image = picture(*size)
    expected = VGG16_Weights.IMAGENET1K_V1.transforms()(image)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (VGG16_MEAN, VGG16_DEVIATION))
    pixels = (torch.tensor(Vgg16Transform()(image)).float() / 255 - mean) / deviation
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-5)


def test_the_vector_is_torchvision_s_last_hidden_layer() -> None:
    """A narrow classifier, for speed: the layers and their order are what is compared."""
    torch.manual_seed(2)
    with torch.device("meta"):
        network = vgg16(weights=None, init_weights=False)
    network.features.to_empty(device="cpu")
    for parameter in network.features.parameters():
        torch.nn.init.normal_(parameter, std=0.03)
    network.classifier[0], network.classifier[3] = torch.nn.Linear(25088, 64), torch.nn.Linear(64, 32)
    network = network.eval()
    pixels = [Vgg16Transform()(picture(width, 240)) for width in (240, 300)]
    normal = torch.stack([VGG16_Weights.IMAGENET1K_V1.transforms()(picture(width, 240)) for width in (240, 300)])
    with torch.inference_mode():
        hidden = network.classifier[:-1](network.avgpool(network.features(normal)).flatten(1))
        rows = adapter.Vgg16(network, Runtime(torch.device("cpu"))).embed(pixels)
    np.testing.assert_allclose(rows, functional.normalize(hidden, dim=1).numpy(), rtol=0, atol=1e-5)
    assert pixels[0].shape == (3, VGG16_SIDE_PX, VGG16_SIDE_PX)
    check_golden("vgg16-narrow", rows)


def test_its_checkpoint_is_torchvision_s_file() -> None:
    spec = specs_of(ProfileChoice("paper", models=Path("m"), recall="vgg16")).recall
    (file,) = spec.files
    assert spec.dim == 4096
    assert file.path == "torchvision/vgg16-397923af.pth"
    assert file.sha256 == "397923af"
