"""Files of a folder in which a process may still write."""

from collections.abc import Iterator
from pathlib import Path


def stored_files(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield every file below `folder` with its content; a file that is replaced meanwhile is left out."""
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                yield path, path.read_bytes()
        except FileNotFoundError:
            continue
