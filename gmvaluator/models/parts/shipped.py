"""Models whose weights come with the package."""

from __future__ import annotations

from pathlib import Path

from gmvaluator.models.parts.part import Part, WeightFile

_DATA = Path(__file__).parents[1] / "data"
_LITE_LICENCE = "Apache-2.0 (see lite.LICENSE.md)"


def lite_quality_part() -> Part:
    """The quality head of profile `lite`, on its own backbone."""
    names = {"backbone": "lite-backbone.safetensors", "heads": "lite.safetensors"}
    files = tuple(
        WeightFile(f"quality/{role}", str(_DATA / name), "local", "shipped with gmvaluator", _LITE_LICENCE, 7)
        for role, name in names.items()
    )
    return Part("lite head", "gmvaluator.models.lite_quality", "gmvaluator.models.lite_quality", 0, files)
