"""Sources of training images: their items, and the shards that a source consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from gmvaluator.errors import InvalidInput
from gmvaluator.ids import sha256_hex
from gmvaluator.training_images import ENDINGS, MAX_BYTES
from indexer.sources.ignored_columns import IgnoredColumns

IMAGE_ENDINGS = (*ENDINGS, "img", "heic", "heif", "jxl")
"""Endings of files that are taken for images; whether one is read is decided by its content."""


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One training image to read.

    read: returns the file's bytes; raises OSError or InvalidInput if this image cannot be read, Unavailable if none
    can. sha256: of these bytes, according to the source. download_sha256: of the download that the file was made from.
    uri: where the bytes are stored. url: the web address of the image, or "". owner: the source's own identifier of
    the rights holder, or None. opt_out: the signal by which the owner refuses training, or "".
    """

    key: str
    uri: str
    read: Callable[[], bytes] = field(compare=False, repr=False)
    sha256: str | None = None
    download_sha256: str | None = None
    title: str = ""
    labels: tuple[str, ...] = ()
    owner: str | None = None
    owner_name: str | None = None
    license: str = ""
    url: str = ""
    opt_out: str = ""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row, file or folder, or the rest of a damaged shard, from which no image can be read, and the reason."""

    key: str
    reason: str


Item = SourceItem | Unreadable


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a source that one worker reads in order.

    name: the same in every run. fingerprint: differs once the shard's rows may have changed. rows: the number of items,
    or None if it is known only after reading. start: returns the items from a position on. loose: whether the rows are
    image files that are stored next to the source's tar or Parquet shards.
    """

    name: str
    fingerprint: str
    rows: int | None
    start: Callable[[int], Iterator[Item]] = field(compare=False, repr=False)
    loose: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """Shards, in the same order in every run. name: the URL or path by which the source was opened.

    ignored: columns that were not read; those of tars are known only after reading.
    """

    name: str
    shards: Sequence[Shard]
    ignored: IgnoredColumns = field(default_factory=IgnoredColumns, compare=False)

    @property
    def rows(self) -> int | None:
        """The number of items, or None if it is known only after reading."""
        counts = [shard.rows for shard in self.shards]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    @property
    def loose_files(self) -> int:
        """The number of image files next to tar or Parquet shards; 0 for a folder of image files alone."""
        return sum(shard.rows or 0 for shard in self.shards if shard.loose)

    @property
    def digest(self) -> str:
        """A hash of all shards, by which another process checks that it opened the same source."""
        lines = [f"{shard.name} {shard.fingerprint}" for shard in self.shards]
        return sha256_hex("\n".join(lines).encode("utf-8", "surrogateescape"))

    def partition(self, index: int, count: int) -> Source:
        """Return the shards of partition `index` (from 0) of `count`; each shard is in exactly one partition."""
        if not 0 <= index < count:
            raise InvalidInput(f"there is no worker {index} of {count}: give 0/{count} to {count - 1}/{count}")
        return replace(self, shards=self.shards[index::count])


def read_bounded(read: Callable[[int], bytes]) -> bytes:
    """Read at most one byte over the limit of an image file, so that the decoder rejects what is too large."""
    return read(MAX_BYTES + 1)
