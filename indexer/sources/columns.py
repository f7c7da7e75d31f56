"""Columns as the ecosystem names them, and what a row of them says about an image."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gmvaluator.errors import InvalidManifest
from indexer.sources.consent import opt_out_signal
from indexer.sources.item import Item, SourceItem, Unreadable

MAX_FIELD_CHARACTERS = 10_000

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
"""Our name for each column, and the names it is known by, compared without case; the first alias present wins."""

_IMG2DATASET = {"status", "original_width"}
"""Columns by which a table is known as img2dataset's; its sha256 is that of the download, not of the file it wrote."""

_DISALLOWED = "disallowed"
"""What img2dataset's message has where a site's X-Robots-Tag refused."""

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class Columns:
    """Which columns of a table mean what."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        lower = {name.lower(): name for name in reversed(self._names)}
        self._of_download = lower.keys() >= _IMG2DATASET
        self._ours = {
            ours: lower[alias] for ours, aliases in ALIASES.items() for alias in reversed(aliases) if alias in lower
        }

    def __contains__(self, ours: str) -> bool:
        return ours in self._ours

    def theirs(self, ours: str) -> str:
        """The table's own name of a column."""
        return self._ours[ours]

    def item(self, row: Mapping[str, Any], where: str, make: Callable[[dict[str, str]], Item]) -> Item:
        """What `make` makes of a row's fields, or why they cannot be used; `where` names the row."""
        try:
            return make(self.fields(row, where))
        except InvalidManifest as error:
            return Unreadable(where, str(error))

    def fields(self, row: Mapping[str, Any], where: str) -> dict[str, str]:
        """Text by our names, plus `opt_out`. Raises InvalidManifest if a field is too long, naming `where`."""
        found = {ours: _text(row.get(theirs)) for ours, theirs in self._ours.items()}
        for name, value in found.items():
            if len(value) > MAX_FIELD_CHARACTERS:
                raise InvalidManifest(f"{where}: {name} has over {MAX_FIELD_CHARACTERS:,} characters")
        if self._of_download:
            found["download_sha256"] = found.pop("sha256", "")
        return {**found, "opt_out": opt_out_signal({name: _text(value) for name, value in row.items()})}


def described(fields: Mapping[str, str]) -> dict[str, Any]:
    """What `SourceItem` takes besides key, uri and read."""
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
    """What img2dataset says of an image that it did not get; None of one that it got."""
    message = fields.get("error_message") or "no reason given"
    if _DISALLOWED in message:
        return SourceItem(key, fields.get("url", ""), bytes, **{**described(fields), "opt_out": message[:200]})
    if fields.get("status", "success") != "success":
        return Unreadable(key, f"it was not downloaded: {message[:200]}")
    return None


def labels(keywords: str, category: str) -> tuple[str, ...]:
    """Category first, then the keywords; no label twice."""
    found = (label.strip() for label in (category, *keywords.split(";")))
    return tuple(dict.fromkeys(filter(None, found)))


def _text(value: Any) -> str:
    """A cell as text: nothing for what is absent, lists joined by ";", bytes and structs left out.

    Half of a character, which JSON can hold and nothing can store, becomes U+FFFD.
    """
    if value is None or isinstance(value, (bytes, dict)) or value != value:
        return ""
    if isinstance(value, (list, tuple)):
        return ";".join(_text(part) for part in value)
    return _HALF_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", str(value)).strip()
