"""Layout of the data folder (`--data DIR`): where index, thumbnails and generated images are kept."""

from __future__ import annotations

from pathlib import Path

DEFAULT_DATA = "./gmvaluator-data"


def index_location(data: Path, index_url: str) -> str | Path:
    """What the index is opened with: the server's URL, or the folder of the embedded engine."""
    return index_url or data / "index"


def thumbnails_folder(data: Path) -> Path:
    """Where the indexer keeps thumbnails."""
    return data / "thumbnails"


def generated_folder(data: Path) -> Path:
    """Where the attributor keeps thumbnails of generated images, if it keeps any."""
    return data / "generated"
