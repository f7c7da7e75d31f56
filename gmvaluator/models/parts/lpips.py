"""Re-ranking by LPIPS."""

from __future__ import annotations

from gmvaluator.errors import UnknownModel
from gmvaluator.models.parts.part import Part, WeightFile

COMPARES_PIXELS = "lpips"
"""How the names of perceptual models begin that compare pixels, and have nothing in the index."""

_ALEXNET_FILE = "alexnet-owt-7be5be79.pth"


def lpips_part(network: str, recall_dim: int) -> Part:
    """network: "alex". recall_dim: of the vector that the index holds in place of this model's. Raises UnknownModel."""
    if network != "alex":
        raise UnknownModel(f"LPIPS has no network {network!r} here; known: alex")
    file = WeightFile(
        "perceptual/alexnet",
        f"torchvision/{_ALEXNET_FILE}",
        "url",
        f"https://download.pytorch.org/models/{_ALEXNET_FILE}",
        "BSD-3-Clause (github.com/pytorch/vision); trained on ImageNet, whose terms are for research",
        233,
        "7be5be79",
    )
    return Part(
        f"{COMPARES_PIXELS} alex 0.1", "gmvaluator.models.lpips", "gmvaluator.models.squash", recall_dim, (file,)
    )
