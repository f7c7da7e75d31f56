"""Where a program's catalogue and ledger are: files in the data folder, or schemas of one PostgreSQL database."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """The data folder, and the database that replaces its SQLite files.

    database_url: postgresql://USER:PASSWORD@HOST/NAME; empty for `catalogue.sqlite` and `ledger.sqlite` in the
    folder. Keys, policies and thumbnails are in the folder either way.
    """

    folder: Path
    database_url: str = field(default="", repr=False)


def as_place(place: Path | Place) -> Place:
    """A bare folder means its SQLite files."""
    return place if isinstance(place, Place) else Place(place)
