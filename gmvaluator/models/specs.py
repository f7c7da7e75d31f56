"""Specifications: one model of a profile described without importing it, and the files it is read from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gmvaluator.profile import ProfileIdentity

DATA = Path(__file__).parent / "data"
"""Folder of `NAME.json`, a shipped profile's identity with the pinned hash of every weight file, and of our weights."""

Fetcher = Literal["open_clip", "dreamsim", "url", "local"]
"""How `models fetch` gets a file: a package's own loader, a plain address, or not at all."""

Family = Literal["openclip", "vgg16", "dreamsim", "lpips", "maniqa", "pyiqa", "lite"]
"""Models that share a loader and a preparer: four of vectors, then three of quality."""


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file of weights or of their settings.

    role: key in the identity's `weights`. path: below the models folder; an absolute path is the operator's own file.
    origin: the address, or the package and tag, it comes from. licence: as its source states it. size_mb: about.
    sha256: the hash that its publisher names, in full or its first digits; if empty, the first fetch records it.
    """

    role: str
    path: str
    fetcher: Fetcher
    origin: str
    licence: str
    size_mb: int
    sha256: str = ""

    @property
    def is_local(self) -> bool:
        """True for the operator's own file, outside the models folder."""
        return Path(self.path).is_absolute()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A recall, perceptual or quality model.

    model: its name in the identity. family: selects its loader (`composed`) and its preparer (`preprocessing`); None
    for a model that computes nothing. dim: length of its vectors, 0 for a quality. settings: what the loader and the
    preparer need to know besides the files.
    """

    model: str
    family: Family | None = None
    dim: int = 0
    files: tuple[WeightFile, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProfileSpecs:
    """The three models of a profile."""

    recall: ModelSpec
    perceptual: ModelSpec
    quality: ModelSpec

    @property
    def files(self) -> tuple[WeightFile, ...]:
        """Every file that the profile needs, once each."""
        files = (*self.recall.files, *self.perceptual.files, *self.quality.files)
        return tuple({file.role: file for file in files}.values())


def shipped_identity() -> ProfileIdentity:
    """Return the identity of profile `lite` as shipped, with the pinned hashes of its weights."""
    return ProfileIdentity.from_dict(json.loads((DATA / "lite.json").read_text(encoding="utf-8")))
