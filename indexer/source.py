"""Where training images come from: a folder, with a CSV manifest beside them or without one."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gmvaluator.errors import InvalidManifest, MissingData

MANIFEST_NAME = "manifest.csv"
MAX_FIELD_CHARACTERS = 10_000
_ALIASES = {
    "file_name": ("file_name", "filename", "path", "image"),
    "key": ("key", "id"),
    "sha256": ("sha256",),
    "title": ("title", "caption"),
    "keywords": ("keywords", "labels", "tags"),
    "category": ("category", "class"),
    "owner": ("owner_id", "owner", "author_id"),
    "owner_name": ("author", "artist", "creator", "owner_name"),
    "license": ("license", "licence"),
}


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One training image to be read. `owner` is the manifest's own name for the rights holder, or None."""

    key: str
    path: Path
    sha256: str | None = None
    title: str = ""
    labels: tuple[str, ...] = ()
    owner: str | None = None
    owner_name: str | None = None
    license: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row or file that cannot even be located, and why."""

    key: str
    reason: str


class Source(Protocol):
    """Something that lists training images; `root` bounds every path that is opened."""

    @property
    def root(self) -> Path: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[SourceItem | Unreadable]: ...


def open_source(path: Path, manifest: Path | None = None) -> Source:
    """The images of folder `path`, by `manifest` if given or if the folder holds a manifest.csv.

    Raises MissingData if the folder is absent, InvalidManifest if the manifest cannot be used.
    """
    if not path.is_dir():
        raise MissingData(f"{path} is no folder: give the folder that holds the images")
    beside = path / MANIFEST_NAME
    if manifest is None and beside.is_file():
        manifest = beside
    return FolderSource(path) if manifest is None else ManifestSource(path, manifest)


@dataclass(frozen=True)
class FolderSource:
    """Every file below a folder, sorted by path; hidden files and folders are left out."""

    root: Path
    _listed: list[SourceItem | Unreadable] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_listed", sorted(self._walk(), key=lambda item: item.key))

    def _walk(self) -> Iterator[SourceItem | Unreadable]:
        closed: list[OSError] = []
        for folder, folders, files in os.walk(self.root, onerror=closed.append):
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield from (self._item(Path(folder, name)) for name in files if not name.startswith("."))
        yield from (
            Unreadable(_text(self._key(error.filename)), f"the folder cannot be read: {error.strerror}")
            for error in closed
        )

    def _item(self, path: Path) -> SourceItem | Unreadable:
        key = self._key(path)
        if _text(key) != key:
            return Unreadable(_text(key), "its name is not UTF-8: rename it")
        return SourceItem(key, path) if _inside(path, self.root) else Unreadable(key, "it links outside the folder")

    def _key(self, path: str | Path) -> str:
        return Path(path).relative_to(self.root).as_posix()

    def __len__(self) -> int:
        return len(self._listed)

    def __iter__(self) -> Iterator[SourceItem | Unreadable]:
        return iter(self._listed)


@dataclass(frozen=True)
class ManifestSource:
    """The rows of a CSV manifest; paths in it are relative to the folder and stay inside it."""

    root: Path
    manifest: Path
    _rows: list[dict[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rows", _read_rows(self.manifest))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[SourceItem | Unreadable]:
        for number, row in enumerate(self._rows, start=2):
            yield self._item(number, row)

    def _item(self, number: int, row: dict[str, str]) -> SourceItem | Unreadable:
        file_name = row["file_name"]
        key = row.get("key") or file_name or f"row {number}"
        if not file_name:
            return Unreadable(key, f"row {number} of {self.manifest.name} names no file")
        if "\0" in file_name or not _inside(self.root / file_name, self.root):
            return Unreadable(key, f"{file_name!r} leads outside {self.root}")
        return SourceItem(
            key=key,
            path=self.root / file_name,
            sha256=row.get("sha256", "").lower() or None,
            title=row.get("title", ""),
            labels=_labels(row.get("keywords", ""), row.get("category", "")),
            owner=row.get("owner") or None,
            owner_name=row.get("owner_name") or None,
            license=row.get("license", ""),
        )


def _labels(keywords: str, category: str) -> tuple[str, ...]:
    """Category first, then the keywords; no label twice."""
    labels = (label.strip() for label in (category, *keywords.split(";")))
    return tuple(dict.fromkeys(filter(None, labels)))


def _text(name: str) -> str:
    """A file's name as text that can be written anywhere; bytes that are not UTF-8 become \\x escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        # Links in a circle lead nowhere.
        return False


def _read_rows(manifest: Path) -> list[dict[str, str]]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = _columns(reader.fieldnames or [], manifest)
            return [_row(row, columns, reader.line_num, manifest) for row in reader]
    except FileNotFoundError as error:
        raise InvalidManifest(f"there is no manifest {manifest}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidManifest(f"{manifest} is not a UTF-8 CSV file: {error}") from error


def _columns(names: Sequence[str], manifest: Path) -> dict[str, str]:
    """Our name for each column that the manifest has, under any of its known aliases."""
    found = {
        ours: alias for ours, aliases in _ALIASES.items() for alias in reversed(aliases) if alias in names
    }  # the first alias listed wins
    if "file_name" not in found:
        raise InvalidManifest(
            f"{manifest} has columns {', '.join(names) or '(none)'}; it needs file_name (or filename, path, image)"
        )
    return found


def _row(row: Mapping[str, str | None], columns: dict[str, str], line: int, manifest: Path) -> dict[str, str]:
    values = {ours: (row[theirs] or "").strip() for ours, theirs in columns.items()}
    for name, value in values.items():
        if len(value) > MAX_FIELD_CHARACTERS:
            raise InvalidManifest(f"{manifest} line {line}: {name} has over {MAX_FIELD_CHARACTERS:,} characters")
    return values
