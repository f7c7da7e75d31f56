"""Names of columns in common data sets, and the description of an image by one row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gmvaluator.errors import InvalidManifest
from indexer.sources.consent import opt_out_signal
from indexer.sources.ignored_columns import IgnoredColumns
from indexer.sources.item import Item, SourceItem, Unreadable

MAX_FIELD_CHARACTERS = 10_000
"""Maximum length of one field of a row, in characters."""

ALIASES = {
    "file_name": ("file_name", "filename", "path", "image", "image_path", "file_path", "filepath", "file"),
    "key": ("key", "__key__", "id"),
    "url": ("url", "__url__", "image_url"),
    "sha256": ("sha256",),
    "title": ("title", "caption", "text", "txt", "prompt"),
    "keywords": ("keywords", "labels", "tags"),
    "category": ("category", "class", "cls", "label"),
    "owner": ("owner_id", "owner", "author_id", "artist_id", "creator_id"),
    "owner_name": ("author", "artist", "creator", "owner_name", "photographer"),
    "license": ("license", "licence"),
    "width": ("width", "original_width"),
    "height": ("height", "original_height"),
    "status": ("status",),
    "error_message": ("error_message",),
}
"""Our name of each column to its names in data sets, compared without case; the first alias present wins."""

_IMG2DATASET = {"status", "original_width"}
"""Columns that identify a table of img2dataset, whose sha256 is of the download, not of the file it wrote."""

_ONLY_IMG2DATASET = ("status", "error_message")
"""Columns that mean something only in a table of img2dataset; in others they are of a workflow of its own."""

_FAILED = "failed_to_"
"""Beginning of img2dataset's status of an image that it did not write."""

_DISALLOWED = "disallowed"
"""Word in img2dataset's error message for a site whose X-Robots-Tag refuses the download."""

_EXACT = 2**53
"""Floats below it are exact if they are whole."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class Columns:
    """The columns of a table, by our names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        # Reversed, so that the first of several names that differ in case alone wins.
        lower = {name.lower(): name for name in reversed(self._names)}
        self._of_download = lower.keys() >= _IMG2DATASET
        by_img2dataset = self._of_download or lower.keys() >= set(_ONLY_IMG2DATASET)
        self._ours = {
            ours: lower[alias]
            for ours, aliases in ALIASES.items()
            if by_img2dataset or ours not in _ONLY_IMG2DATASET
            for alias in reversed(aliases)
            if alias in lower
        }

    def note_ignored(self, ignored: IgnoredColumns) -> None:
        """Note the columns that are not read although they look like an owner or an opt-out."""
        ignored.note(self._names, "owner" in self._ours)

    def __contains__(self, ours: str) -> bool:
        return ours in self._ours

    def theirs(self, ours: str) -> str:
        """Return the table's own name of a column."""
        return self._ours[ours]

    def item(self, row: Mapping[str, Any], where: str, make: Callable[[dict[str, str]], Item]) -> Item:
        """Return `make(fields)`, or Unreadable if the row's fields cannot be used; `where` names the row."""
        try:
            return make(self.fields(row, where))
        except InvalidManifest as error:
            return Unreadable(where, str(error))

    def fields(self, row: Mapping[str, Any], where: str) -> dict[str, str]:
        """Return a row's fields as text, by our names, and its `opt_out` signal.

        Raises InvalidManifest, naming `where`, if a field is too long.
        """
        texts = {ours: _text(row.get(theirs)) for ours, theirs in self._ours.items()}
        for name, value in texts.items():
            if len(value) > MAX_FIELD_CHARACTERS:
                raise InvalidManifest(f"{where}: {name} has over {MAX_FIELD_CHARACTERS:,} characters")
        if self._of_download:
            texts["download_sha256"] = texts.pop("sha256", "")
        return {**texts, "opt_out": opt_out_signal({name: _text(value) for name, value in row.items()})}


def described(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of `SourceItem` other than key, uri and read."""
    return {
        "sha256": fields.get("sha256", "").lower() or None,
        "download_sha256": fields.get("download_sha256", "").lower() or None,
        "title": fields.get("title", ""),
        "labels": labels(fields.get("keywords", ""), fields.get("category", "")),
        "owner": fields.get("owner") or None,
        "owner_name": fields.get("owner_name") or None,
        "license": fields.get("license", ""),
        "url": fields.get("url", ""),
        "opt_out": fields.get("opt_out", ""),
    }


def not_downloaded(key: str, fields: Mapping[str, str]) -> Item | None:
    """Return an item for an image that img2dataset could not download; None for one that it downloaded."""
    message = fields.get("error_message") or "no reason given"
    if _DISALLOWED in message:
        # A refusal by the site is an opt-out, which is counted apart from broken downloads.
        return SourceItem(key, fields.get("url", ""), bytes, **{**described(fields), "opt_out": message[:200]})
    if fields.get("status", "").startswith(_FAILED):
        return Unreadable(key, f"it was not downloaded: {message[:200]}")
    return None


def labels(keywords: str, category: str) -> tuple[str, ...]:
    """Return the category, then the keywords, without duplicates."""
    names = (label.strip() for label in (category, *keywords.split(";")))
    return tuple(dict.fromkeys(filter(None, names)))


def _text(value: Any) -> str:
    """Return a cell as text: "" if it is absent, bytes or a struct; lists are joined by ";".

    A lone surrogate, which JSON can hold and UTF-8 cannot store, becomes U+FFFD.
    """
    if value is None or isinstance(value, (bytes, dict)) or value != value:  # NaN is not equal to itself
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        # pandas makes floats of a column of integers that has a gap.
        return str(int(value))
    if isinstance(value, (list, tuple)):
        return ";".join(_text(part) for part in value)
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", str(value)).strip()
