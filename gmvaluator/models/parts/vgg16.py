"""Recall by VGG-16, as in the first version of the paper."""

from __future__ import annotations

from gmvaluator.models.parts.part import Part, WeightFile

DIM = 4096
_VGG16_FILE = "vgg16-397923af.pth"


def vgg16_part() -> Part:
    """torchvision's VGG-16 with its ImageNet weights."""
    file = WeightFile(
        "recall",
        f"torchvision/{_VGG16_FILE}",
        "url",
        f"https://download.pytorch.org/models/{_VGG16_FILE}",
        "BSD-3-Clause (github.com/pytorch/vision); trained on ImageNet, whose terms are for research",
        528,
        "397923af",
    )
    return Part("torchvision vgg16", "gmvaluator.models.vgg16", "gmvaluator.models.vgg16_transform", DIM, (file,))
