"""A tree of image files, sorted by path and cut into shards of some thousand files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial

from indexer.sources.item import Item, Shard, Source, SourceItem, Unreadable
from indexer.sources.roots import Root, printable, read_file

SHARD_FILES = 10_000


def folder_source(root: Root) -> Source:
    """Every file below `root`, whatever its ending: what is no image is rejected, and counted."""
    entries = sorted(root.files(), key=_key)
    blocks = [entries[start : start + SHARD_FILES] for start in range(0, len(entries), SHARD_FILES)]
    return Source(root.url, [_shard(root, number, block) for number, block in enumerate(blocks)])


def _shard(root: Root, number: int, block: Sequence[str | Unreadable]) -> Shard:
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
