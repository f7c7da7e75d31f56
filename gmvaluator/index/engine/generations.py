"""A collection's folder: `generation-N/` holds a shard, `CURRENT` names the one in use.

NAME/collection.json    settings and metadata
NAME/CURRENT            "generation-N"
NAME/generation-N/      the shard in use
NAME/generation-N+1/    a build under way, or what a crash left of one
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gmvaluator.index.engine.files import remove_tree, replace_file
from gmvaluator.index.engine.settings import CollectionSettings

_GENERATION = re.compile(r"generation-(\d{1,9})")
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Description:
    """What `collection.json` holds. metadata is whatever JSON the users keep with the collection."""

    settings: CollectionSettings
    metadata: dict[str, Any] = field(default_factory=dict)


class Generations:
    """The files of one collection; each change leaves a folder that can be opened, whatever happens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def current(self) -> Path:
        """The folder of the shard in use."""
        name = (self.folder / "CURRENT").read_text(encoding="ascii").strip()
        if not _GENERATION.fullmatch(name):
            raise ValueError(f"{self.folder}/CURRENT names {name!r}: it is damaged, restore it from a backup")
        return self.folder / name

    def following(self) -> Path:
        """The folder that the next generation goes to; absent until it is made."""
        match = _GENERATION.fullmatch(self.current().name)
        assert match is not None
        return self.folder / f"generation-{int(match.group(1)) + 1}"

    def switch(self, generation: Path) -> None:
        """Make `generation` the one in use, durably."""
        replace_file(self.folder / "CURRENT", generation.name.encode())

    def begin(self, description: Description) -> Path:
        """Fill a new collection's folder; returns where its first shard goes."""
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
        replace_file(self.folder / "collection.json", json.dumps(value, indent=1, sort_keys=True).encode())

    def description(self) -> Description:
        """Read `collection.json`."""
        value = json.loads((self.folder / "collection.json").read_bytes())
        if value["format"] != _FORMAT:
            raise ValueError(f"{self.folder} has format {value['format']}: use a newer version of the program")
        return Description(CollectionSettings.from_dict(value["settings"]), value["metadata"])

    def remove_leftovers(self) -> None:
        """Delete every generation but the one in use."""
        current = self.current()
        for path in self.folder.glob("generation-*"):
            if path != current:
                remove_tree(path)
