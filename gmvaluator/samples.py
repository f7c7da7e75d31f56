"""Paths of the sample images, which are in the wheel or, in a checkout, next to the package."""

from __future__ import annotations

from pathlib import Path

from gmvaluator.errors import MissingData

_PACKAGE = Path(__file__).parent


def sample_folder(name: str) -> Path:
    """Return the folder of a sample. Raises MissingData if it is not installed.

    name: "openclipart" (training images with manifest.csv), "generated" (with recipes.csv), "foreign" (images without a
    source in the sample, with manifest.csv) or "mnist" (digits).
    """
    for parent in (_PACKAGE / "examples", _PACKAGE.parent / "examples"):
        if (parent / name).is_dir():
            return parent / name
    raise MissingData(f"the sample {name!r} is not installed: reinstall gmvaluator")
