"""Files of a collection.

NAME/collection.json       settings, metadata and a requested rebuild
NAME/CURRENT               "generation-N", and on a second line the token of the rebuild that made it
NAME/generation-N/         the served shard
NAME/generation-N+1/       a running build, or the leftovers of one
NAME/generation-N+1.from/  the copy that a rebuild reads
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gmvaluator.files import atomic_write
from gmvaluator.index.engine.files import remove_tree
from gmvaluator.index.engine.settings import CollectionSettings

_GENERATION = re.compile(r"generation-(\d{1,9})")
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A requested rebuild: a generation into which every point is rewritten, without deleted data.

    token: unique per request. settings: of the new generation. metadata: merged into the collection's once it is
    served.
    """

    token: str
    settings: CollectionSettings
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Description:
    """The contents of `collection.json`. metadata is any JSON object that the users store with the collection."""

    settings: CollectionSettings
    metadata: dict[str, Any] = field(default_factory=dict)
    rebuild: Rebuild | None = None

    def rebuilt(self) -> Description:
        """Return the description after the rebuild is done and served."""
        assert self.rebuild is not None
        settings = replace(self.rebuild.settings, indexing_threshold_kb=self.settings.indexing_threshold_kb)
        return Description(settings, {**self.metadata, **self.rebuild.metadata})


class Generations:
    """The files of a collection, and their changes. After a crash at any point the folder can be opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def current(self) -> Path:
        """Return the folder of the served shard. Raises ValueError if CURRENT is damaged."""
        name = self._current_lines()[0]
        if not _GENERATION.fullmatch(name):
            raise ValueError(f"{self.folder}/CURRENT names {name!r}: it is damaged, restore it from a backup")
        return self.folder / name

    def next_generation(self) -> Path:
        """Return the folder for the next generation, which is absent until a build creates it."""
        match = _GENERATION.fullmatch(self.current().name)
        assert match is not None
        return self.folder / f"generation-{int(match.group(1)) + 1}"

    def _current_lines(self) -> list[str]:
        return [*(self.folder / "CURRENT").read_text(encoding="ascii").splitlines(), "", ""]

    def switch(self, generation: Path, token: str = "") -> None:
        """Make `generation` the served one, durably. token: of the rebuild that made it, if any."""
        atomic_write(self.folder / "CURRENT", f"{generation.name}\n{token}".encode())

    def begin(self, description: Description) -> Path:
        """Initialise a new collection's folder; return the folder for its first shard."""
        self.describe(description)
        first = self.folder / "generation-1"
        self.switch(first)
        return first

    def describe(self, description: Description) -> None:
        """Replace `collection.json`, durably."""
        value = {
            "format": _FORMAT,
            "settings": description.settings.as_dict(),
            "metadata": description.metadata,
        }
        if description.rebuild is not None:
            value["rebuild"] = asdict(description.rebuild)
        atomic_write(self.folder / "collection.json", json.dumps(value, indent=1, sort_keys=True).encode())

    def description(self) -> Description:
        """Read `collection.json`. Raises ValueError if a newer version of the program wrote it."""
        value = json.loads((self.folder / "collection.json").read_bytes())
        if value["format"] != _FORMAT:
            raise ValueError(f"{self.folder} has format {value['format']}: use a newer version of the program")
        description = Description(
            CollectionSettings.from_dict(value["settings"]), value["metadata"], _rebuild(value.get("rebuild"))
        )
        if description.rebuild is not None and description.rebuild.token == self._current_lines()[1]:
            # The engine ended after it switched CURRENT and before it updated collection.json.
            return description.rebuilt()
        return description

    def remove_leftovers(self) -> None:
        """Delete every generation except the served one.

        Raises ValueError, without deleting anything, if CURRENT is damaged or the served generation is missing.
        """
        current = self.current()
        if not current.is_dir():
            raise ValueError(
                f"{self.folder}/CURRENT names {current.name}, which is not there: restore it from a backup"
            )
        for path in self.folder.glob("generation-*"):
            if path != current:
                remove_tree(path)


def _rebuild(value: Mapping[str, Any] | None) -> Rebuild | None:
    if value is None:
        return None
    return Rebuild(value["token"], CollectionSettings.from_dict(value["settings"]), dict(value["metadata"]))
