"""Layout of the data folder (`--data DIR`): index, thumbnails and generated images."""

from __future__ import annotations

from pathlib import Path

DEFAULT_DATA = "./gmvaluator-data"
"""Default of `--data`."""


def index_location(data: Path, index_url: str) -> str | Path:
    """Return the location of the index: the server's URL, or the folder of the embedded engine if that is empty."""
    return index_url or data / "index"


def thumbnails_folder(data: Path) -> Path:
    """Return the folder of the indexer's thumbnails."""
    return data / "thumbnails"


def generated_folder(data: Path) -> Path:
    """Return the folder of thumbnails of generated images, which exists only if the attributor keeps them."""
    return data / "generated"
