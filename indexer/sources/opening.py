"""Opening of sources, with a reader chosen by what is stored at a path or URL, and the reader of image folders."""

from __future__ import annotations

import hashlib
import posixpath
import re
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from braceexpand import braceexpand

from gmvaluator.errors import InvalidInput, InvalidManifest, MissingData
from gmvaluator.ids import sha256_hex
from indexer.sources.img2dataset import STATS_ENDING, img2dataset_source
from indexer.sources.item import IMAGE_ENDINGS, Item, Shard, Source, SourceItem, Unreadable
from indexer.sources.manifest import manifest_source
from indexer.sources.parquet_images import have_images, images_source, unread_columns
from indexer.sources.roots import Root, is_remote, is_there, local_path, open_root, printable, read_file
from indexer.sources.tar import ENDINGS as TAR_ENDINGS
from indexer.sources.tar import tar_source

MANIFEST_NAME = "manifest.csv"
SHARD_FILES = 10_000
"""Maximum number of files in one shard of a folder of image files."""

_MANIFEST_ENDINGS = (".csv", ".jsonl", ".ndjson", ".parquet")
_LOOSE_IMAGES = tuple(f".{ending}" for ending in IMAGE_ENDINGS if ending != "img")
_MAX_SHARDS = 250_000
"""Maximum number of files that one pattern may name."""

_LISTED = 1_000
"""Number of files that a pattern may name without its first file being looked for at once."""

_RANGE = re.compile(r"(-?[0-9]+|[A-Za-z])\.\.(-?[0-9]+|[A-Za-z])(?:\.\.(-?[0-9]+))?")
_MAX_DIGITS = 18
"""Digits of a number in a range; more are over any limit of names, and int() refuses thousands of them."""

_LETTERS = string.ascii_uppercase + string.ascii_lowercase


def open_source(location: str, manifest: str | None = None) -> Source:
    """Open the training images at `location`: a folder, a manifest, tar shards or Parquet, by path or fsspec URL.

    A folder may hold image files (with manifest.csv or without), tar shards, Parquet with embedded images, or the
    output of img2dataset. A name may have braces, as in shards/{00000..00041}.tar. manifest: rows for a folder of
    images. Raises MissingData if nothing is there, InvalidManifest or InvalidInput if it cannot be used.
    """
    if location.startswith("pipe:") or location == "-":
        raise InvalidInput(f"{location} is refused, as it would run a command: give a path or a URL")
    if manifest is not None:
        return _by_manifest(open_root(location), manifest)
    # What is there is meant, whatever its name looks like: a folder may be called `x.parquet` or `{a,b}`.
    if not is_remote(location) and is_there(local_path(location)) and local_path(location).is_dir():
        return _folder(open_root(location))
    names = _expanded(location)
    if len(names) > 1 or names[0].endswith(TAR_ENDINGS):
        return _files(names)
    if location.endswith(_MANIFEST_ENDINGS):
        return _file(location)
    return _folder(open_root(location))


def _expanded(location: str) -> list[str]:
    """Return the names that a pattern with braces stands for; a file of this very name is that file.

    Raises InvalidInput if they are too many.
    """
    if "{" not in location or (not is_remote(location) and is_there(local_path(location))):
        return [location]
    # braceexpand makes the list of a whole range before it yields the first name, so a typo in a range would cost
    # seconds and gigabytes: count first.
    count = count_names(location)
    if count > _MAX_SHARDS:
        raise InvalidInput(f"{location} names over {_MAX_SHARDS:,} files: index them in parts")
    try:
        names = iter(braceexpand(location))
        first = next(names)
    except ValueError as error:
        raise InvalidInput(f"{location} has a brace without its partner: write {{00000..00041}}") from error
    if count > _LISTED:
        # A typo in the range of a large pattern is told after one look, not after a million.
        _require_file(first, count)
    return [first, *names]


def _require_file(location: str, count: int) -> None:
    folder, name = _split(location)
    root = open_root(folder, [name])
    if not root.is_file(name):
        raise MissingData(f"the first of {count:,} files, {root.uri(name)}, does not exist")


def count_names(pattern: str) -> int:
    """Return how many names a pattern with braces stands for, without making them; unbalanced braces count as text.

    A sequence of parts multiplies, as {a,b}{1..3} does; alternatives inside braces add up, as {a,{1..3}} does.
    """
    # One entry per open brace: the names of its finished alternatives, and of its current one so far.
    finished, current = [0], [1]
    start = 0
    for position, character in enumerate(pattern):
        if character == "{":
            finished.append(0)
            current.append(1)
            start = position + 1
        elif character == "," and len(current) > 1:
            finished[-1] += current[-1]
            current[-1] = 1
        elif character == "}" and len(current) > 1:
            names = _range_size(pattern[start:position]) or finished[-1] + current[-1]
            finished.pop()
            current.pop()
            current[-1] *= names
    return current[-1] if len(current) == 1 else 1


def _range_size(text: str) -> int | None:
    """Return the number of values of a range, first..last or first..last..step; None if the text is no range."""
    match = _RANGE.fullmatch(text)
    if match is None or match[1].isalpha() != match[2].isalpha():
        return None
    if max(map(len, match.groups(""))) > _MAX_DIGITS:
        return _MAX_SHARDS + 1
    first, last = (_LETTERS.index(end) if end.isalpha() else int(end) for end in (match[1], match[2]))
    return abs(last - first) // (abs(int(match[3] or 1)) or 1) + 1


def _split(location: str) -> tuple[str, str]:
    folder, name = posixpath.split(location)
    return folder or ".", name


def _by_manifest(root: Root, manifest: str) -> Source:
    folder, name = _split(manifest)
    try:
        manifest_root = open_root(folder, [name])
    except MissingData as error:
        raise InvalidManifest(f"there is no manifest {manifest}") from error
    return manifest_source(root, manifest_root, name)


def _file(location: str) -> Source:
    folder, name = _split(location)
    root = open_root(folder, [name])
    if not root.is_file(name):
        raise MissingData(f"{location} does not exist")
    if name.endswith(".parquet") and have_images(root, [name]):
        return images_source(root, [name])
    return manifest_source(root, root, name)


def _files(locations: Sequence[str]) -> Source:
    """Open the tar shards, or the Parquet files with embedded images, that a brace pattern names.

    Raises MissingData if one does not exist, InvalidInput if they are in several folders or of different kinds.
    """
    folders = {_split(location)[0] for location in locations}
    if len(folders) > 1:
        raise InvalidInput(f"the pattern names files in {len(folders)} folders: index one folder at a time")
    names = [_split(location)[1] for location in locations]
    root = open_root(folders.pop(), names)
    missing = [name for name in names if not root.is_file(name)]
    if missing:
        raise MissingData(f"{len(missing)} of {len(names)} files do not exist, the first is {root.uri(missing[0])}")
    # The source's name includes the files, so that other files of the folder have progress of their own.
    named = f"{root.url}/{names[0]} ... {len(names)} files, {sha256_hex(' '.join(names).encode())[:16]}"
    if all(name.endswith(TAR_ENDINGS) for name in names):
        return replace(tar_source(root, names), name=named)
    if all(name.endswith(".parquet") for name in names):
        return replace(images_source(root, names), name=named)
    raise InvalidInput("a pattern names either tar shards or Parquet files with embedded images")


def _folder(root: Root) -> Source:
    if root.is_file(MANIFEST_NAME):
        return manifest_source(root, root, MANIFEST_NAME)
    files = sorted(entry for entry in root.files() if not isinstance(entry, Unreadable))
    reader = _reader(root, files)
    return folder_source(root) if reader is None else reader()


def _reader(root: Root, files: Sequence[str]) -> Callable[[], Source] | None:
    """Return the reader of a folder's shards, or None if it holds image files."""
    tars = [name for name in files if name.endswith(TAR_ENDINGS)]
    parquets = [name for name in files if name.endswith(".parquet")]
    if tars:
        by_img2dataset = any(name.endswith(STATS_ENDING) for name in files)
        return lambda: _with_loose(root, files, tar_source(root, tars, parquets if by_img2dataset else ()))
    if parquets and have_images(root, parquets):
        return lambda: _with_loose(root, files, images_source(root, parquets))
    if parquets and any(name.endswith(STATS_ENDING) for name in files):
        return lambda: img2dataset_source(root, parquets, files)
    if parquets and len(parquets) == len(files):
        unread = unread_columns(root, parquets[0]) or "none has a name of images"
        raise InvalidManifest(f"{root.url} holds Parquet files without a column of images that can be read ({unread})")
    return None


def _with_loose(root: Root, files: Sequence[str], source: Source) -> Source:
    """Return the source of shards with the image files that are stored next to them, which come last."""
    loose = [name for name in files if name.lower().endswith(_LOOSE_IMAGES)]
    blocks = [replace(block, loose=True) for block in _file_shards(root, loose)]
    return replace(source, shards=[*source.shards, *blocks])


def folder_source(root: Root) -> Source:
    """Open every file below `root`, sorted by path, whatever its ending: what is no image is rejected, and counted."""
    return Source(root.url, _file_shards(root, sorted(root.files(), key=_key)))


def _file_shards(root: Root, entries: Sequence[str | Unreadable]) -> list[Shard]:
    blocks = [entries[start : start + SHARD_FILES] for start in range(0, len(entries), SHARD_FILES)]
    return [_shard(root, number, block) for number, block in enumerate(blocks)]


def _shard(root: Root, number: int, block: Sequence[str | Unreadable]) -> Shard:
    # The fingerprint covers names alone: reading the state of millions of files takes longer than it saves.
    names = hashlib.sha256("\0".join(map(_key, block)).encode("utf-8", "surrogateescape")).hexdigest()
    return Shard(f"files {number}", names[:16], len(block), partial(_items, root, block))


def _items(root: Root, block: Sequence[str | Unreadable], start: int) -> Iterator[Item]:
    for entry in block[start:]:
        yield entry if isinstance(entry, Unreadable) else _item(root, entry)


def _item(root: Root, name: str) -> Item:
    refusal = root.refusal(name)
    if refusal:
        return Unreadable(printable(name), refusal)
    return SourceItem(name, root.uri(name), partial(read_file, root, name))


def _key(entry: str | Unreadable) -> str:
    return entry.key if isinstance(entry, Unreadable) else entry
