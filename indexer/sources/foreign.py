"""Files that operating systems and archivers leave between images: no source reads them."""

from __future__ import annotations

import re

_FOLDERS = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", ".ds_store", ".localized", ".directory"})
_PAX_FOLDER = re.compile(r"PaxHeaders?(\.\d+)?")
"""Folder of extended headers that an archiver without support for PAX unpacked as files."""

APPLE_DOUBLE = (b"\0\5\x16\7", b"\0\5\x16\0")
"""First bytes of a `._NAME` file, in which macOS keeps what other file systems cannot store about NAME."""


def is_foreign(name: str, start: bytes = b"") -> bool:
    """Return whether a path names a file that holds no image of its own. start: the first bytes of a `._NAME` file."""
    *folders, base = name.split("/")
    if any(folder in _FOLDERS or _PAX_FOLDER.fullmatch(folder) for folder in folders):
        return True
    return base.lower() in _FILES or (base.startswith("._") and start.startswith(APPLE_DOUBLE))
