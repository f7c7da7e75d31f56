"""A collection's folder: `generation-N/` holds a shard, `CURRENT` names the one in use.

NAME/collection.json    settings and metadata
NAME/CURRENT            "generation-N", and on a second line which rebuild made it
NAME/generation-N/      the shard in use
NAME/generation-N+1/    a build under way, or what a crash left of one
NAME/generation-N+1.from/  what a rebuild reads from
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
    """A generation that is wanted: every point written anew under `settings`, nothing kept of what was deleted.

    token: tells this wish from every other. metadata: merged into the collection's once the generation serves.
    """

    token: str
    settings: CollectionSettings
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Description:
    """What `collection.json` holds. metadata is whatever JSON the users keep with the collection."""

    settings: CollectionSettings
    metadata: dict[str, Any] = field(default_factory=dict)
    rebuild: Rebuild | None = None

    def rebuilt(self) -> Description:
        """The same once the rebuild serves."""
        assert self.rebuild is not None
        settings = replace(self.rebuild.settings, indexing_threshold_kb=self.settings.indexing_threshold_kb)
        return Description(settings, {**self.metadata, **self.rebuild.metadata})


class Generations:
    """The files of one collection; each change leaves a folder that can be opened, whatever happens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def current(self) -> Path:
        """The folder of the shard in use."""
        name = self._current_lines()[0]
        if not _GENERATION.fullmatch(name):
            raise ValueError(f"{self.folder}/CURRENT names {name!r}: it is damaged, restore it from a backup")
        return self.folder / name

    def following(self) -> Path:
        """The folder that the next generation goes to; absent until it is made."""
        match = _GENERATION.fullmatch(self.current().name)
        assert match is not None
        return self.folder / f"generation-{int(match.group(1)) + 1}"

    def _current_lines(self) -> list[str]:
        return [*(self.folder / "CURRENT").read_text(encoding="ascii").splitlines(), "", ""]

    def switch(self, generation: Path, token: str = "") -> None:
        """Make `generation` the one in use, durably. token: of the rebuild that it is, if it is one."""
        atomic_write(self.folder / "CURRENT", f"{generation.name}\n{token}".encode())

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
        if description.rebuild is not None:
            value["rebuild"] = asdict(description.rebuild)
        atomic_write(self.folder / "collection.json", json.dumps(value, indent=1, sort_keys=True).encode())

    def description(self) -> Description:
        """Read `collection.json`."""
        value = json.loads((self.folder / "collection.json").read_bytes())
        if value["format"] != _FORMAT:
            raise ValueError(f"{self.folder} has format {value['format']}: use a newer version of the program")
        description = Description(
            CollectionSettings.from_dict(value["settings"]), value["metadata"], _rebuild(value.get("rebuild"))
        )
        if description.rebuild is not None and description.rebuild.token == self._current_lines()[1]:
            return description.rebuilt()  # the engine ended after the switch and before it was noted
        return description

    def remove_leftovers(self) -> None:
        """Delete every generation but the one in use. Raises ValueError, and deletes nothing, if that is not there."""
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
