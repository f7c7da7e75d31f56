"""Layout of the data folder (`--data DIR`): index, thumbnails and generated images."""

from __future__ import annotations

import shlex
import stat
from pathlib import Path

from gmvaluator.errors import MissingIndex


def open_to_others(folder: Path) -> str:
    """Return a warning if users other than its owner may enter or read an existing folder; empty otherwise.

    Who can open the files in it can lock them, and so stop the service.
    """
    try:
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError:
        return ""  # who uses the folder reports it
    if not mode & 0o077:
        return ""
    return (
        f"{folder} is open to other users of this machine (mode {mode:04o}), who can read it, or stop the service by "
        f"locking its files: chmod -R go= {shlex.quote(str(folder))}"
    )


DEFAULT_DATA = "./gmvaluator-data"
"""Default of `--data`."""


def index_location(data: Path, index_url: str) -> str | Path:
    """Return the location of the index: the server's URL, or the folder of the embedded engine if that is empty."""
    return index_url or data / "index"


def require_index(location: str | Path) -> None:
    """Raise MissingIndex if the index is a folder that does not exist; the embedded engine would create it."""
    if isinstance(location, Path) and not location.is_dir():
        raise MissingIndex(f"there is no index in {location}: index your works first, or name the folder by --data")


def thumbnails_folder(data: Path) -> Path:
    """Return the folder of the indexer's thumbnails."""
    return data / "thumbnails"


def generated_folder(data: Path) -> Path:
    """Return the folder of thumbnails of generated images, which exists only if the attributor keeps them."""
    return data / "generated"
