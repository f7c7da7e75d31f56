"""What a source yields, and how a source is cut into shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from gmvaluator.errors import InvalidInput
from gmvaluator.ids import sha256_hex
from gmvaluator.images import MAX_IMAGE_BYTES


@dataclass(frozen=True, slots=True)
class SourceItem:
    """One training image to be read.

    read: its file's bytes; may raise OSError or InvalidInput of this one, and Unavailable of all. sha256: of these
    bytes, as the source says; download_sha256: of those they were made from. uri: where they lie. url: where the image
    was first found, or "". owner: the source's own name for the rights holder, or None. opt_out: the signal by which
    its owner refuses training, or "".
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
    """A row or file that cannot even be located, and why."""

    key: str
    reason: str


Item = SourceItem | Unreadable


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a source that is read in order, by one worker.

    name: the same in every run. fingerprint: differs once the shard's rows may have changed. rows: how many items it
    has, or None where only reading it tells. start: its items from the one at a position on.
    """

    name: str
    fingerprint: str
    rows: int | None
    start: Callable[[int], Iterator[Item]] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Source:
    """Shards, in an order that is the same in every run. name: the URL or path it was opened by."""

    name: str
    shards: Sequence[Shard]

    @property
    def rows(self) -> int | None:
        """How many items there are, or None where only reading tells."""
        counts = [shard.rows for shard in self.shards]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    @property
    def digest(self) -> str:
        """Differs once shards have come, gone or changed; what opens the source elsewhere compares it."""
        lines = [f"{shard.name} {shard.fingerprint}" for shard in self.shards]
        return sha256_hex("\n".join(lines).encode("utf-8", "surrogateescape"))

    def partition(self, index: int, count: int) -> Source:
        """Return the shards of partition `index` (from 0) of `count`; each shard is in exactly one partition."""
        if not 0 <= index < count:
            raise InvalidInput(f"there is no worker {index} of {count}: give 0/{count} to {count - 1}/{count}")
        return Source(self.name, self.shards[index::count])


def read_bounded(read: Callable[[int], bytes]) -> bytes:
    """One byte over the limit at most, so that the decoder refuses what is too large."""
    return read(MAX_IMAGE_BYTES + 1)
