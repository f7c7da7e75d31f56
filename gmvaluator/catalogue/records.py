"""Records of the catalogue: validated input, and results of writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from gmvaluator.errors import InvalidInput, InvalidManifest
from gmvaluator.ids import TrainingImageId, training_image_id
from gmvaluator.text import normal_identifier, written_text

MAX_CHARACTERS = 10_000
"""Limit of each text, such as a key, a URI or a label."""

MAX_KEY_BYTES = 2_000
"""Limit of a key, bytes of UTF-8: PostgreSQL indexes no text of over 2,700."""

MAX_LABELS = 1_000
"""Limit of a work's labels."""

MAX_PIXELS_A_SIDE = 1_000_000
"""Limit of a work's width and height, pixels."""

_DATA_SET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MODEL_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+=-]{0,199}")


@dataclass(frozen=True, slots=True)
class OwnerReference:
    """An owner in a manifest. An empty display_name is replaced by the manifest_id.

    manifest_id: normalised, so that one id in two spellings is one owner; see `text.normal_identifier`.
    namespace: "" if manifest ids mean the same owner in every manifest; otherwise a prefix that separates the ids of
    one provider from those of another.
    """

    manifest_id: str
    display_name: str
    namespace: str = ""

    def __post_init__(self) -> None:
        _bounded("an owner's namespace", self.namespace, MAX_CHARACTERS)
        for name, what in (("manifest_id", "an owner's owner_id"), ("display_name", "an owner's name")):
            text = written_text(what, getattr(self, name), MAX_CHARACTERS, required=False)
            object.__setattr__(self, name, text)  # a frozen dataclass has no other way to normalise its fields
        object.__setattr__(self, "manifest_id", normal_identifier(self.manifest_id))
        if not self.manifest_id:
            raise InvalidManifest("an owner needs an owner_id: leave the owner out where it is unknown")


@dataclass(frozen=True, slots=True)
class NewWork:
    """A training image and one source of it. owner: None if the manifest names none. url: web address, or ""."""

    training_image_id: TrainingImageId
    sha256: str
    width: int
    height: int
    data_set: str
    key: str
    uri: str
    title: str = ""
    license: str = ""
    labels: tuple[str, ...] = ()
    owner: OwnerReference | None = None
    url: str = ""

    def __post_init__(self) -> None:
        if self.training_image_id != training_image_id(self.sha256):
            raise InvalidInput(f"{self.training_image_id} is not the id of an image with SHA-256 {self.sha256}")
        if not (1 <= self.width <= MAX_PIXELS_A_SIDE and 1 <= self.height <= MAX_PIXELS_A_SIDE):
            raise InvalidInput(f"{self.key}: {self.width}x{self.height} pixels is no size of an image")
        check_data_set(self.data_set)
        check_key(self.key)
        for name in ("uri", "url", "title", "license"):
            _bounded(f"{self.key}: the {name}", getattr(self, name), MAX_CHARACTERS)
        if len(self.labels) > MAX_LABELS:
            raise InvalidManifest(f"{self.key}: {len(self.labels)} labels are more than {MAX_LABELS}")
        for label in self.labels:
            _bounded(f"{self.key}: label {label[:40]!r}", label, MAX_CHARACTERS)


@dataclass(frozen=True, slots=True)
class Recorded:
    """Numbers of rows that a batch added. refused: works that were removed before, or whose owner was erased."""

    works: int
    sources: int
    claims: int
    refused: tuple[TrainingImageId, ...]


@dataclass(frozen=True, slots=True)
class IndexRun:
    """Progress of indexing one source into one data set. position: items processed, in the source's order."""

    run_id: int
    data_set: str
    source: str
    position: int
    counts: Mapping[str, int]
    finished: bool


def check_data_set(name: str) -> str:
    """Return a valid data set name: 1-64 characters of A-Z a-z 0-9 . _ -, the first alphanumeric.

    Raises InvalidInput.
    """
    if not _DATA_SET.fullmatch(name):
        raise InvalidInput(
            f"data set {name[:70]!r} is refused: use 1-64 characters of A-Z a-z 0-9 . _ - "
            "and begin with a letter or digit"
        )
    return name


def check_key(key: str) -> str:
    """Return a valid key of an image in its data set: at most 2,000 bytes of UTF-8. Raises InvalidManifest."""
    size = len(key.encode("utf-8", "surrogatepass"))
    if size > MAX_KEY_BYTES:
        raise InvalidManifest(
            f"a key of {size:,} bytes is refused: the limit is {MAX_KEY_BYTES:,}, so name the image by a shorter one"
        )
    _bounded("a key", key, MAX_KEY_BYTES)
    return key


def check_model_version(name: str) -> str:
    """Return a valid generator name: 1-200 characters of A-Z a-z 0-9 . _ : / @ + = -, the first alphanumeric.

    Raises InvalidInput.
    """
    if not _MODEL_VERSION.fullmatch(name):
        raise InvalidInput(
            f"model version {name[:60]!r} is refused: use 1-200 characters of A-Z a-z 0-9 . _ : / @ + = - "
            "and begin with a letter or digit"
        )
    return name


def _bounded(what: str, text: str, high: int) -> None:
    if len(text) > high or "\x00" in text:
        raise InvalidManifest(f"{what} is refused: at most {high} characters, none of them NUL")
