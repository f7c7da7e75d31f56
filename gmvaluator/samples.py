"""Where the sample images are: in the wheel, or beside the package in a checkout."""

from __future__ import annotations

from pathlib import Path

from gmvaluator.errors import MissingData

_PACKAGE = Path(__file__).parent


def sample_folder(name: str) -> Path:
    """Folder of a sample: "openclipart" (training images with manifest.csv) or "generated" (with recipes.csv),
    "foreign" (images without a source in the sample, with manifest.csv), "mnist" (digits). Raises MissingData."""
    for parent in (_PACKAGE / "examples", _PACKAGE.parent / "examples"):
        if (parent / name).is_dir():
            return parent / name
    raise MissingData(f"the sample {name!r} is not installed: reinstall gmvaluator")
