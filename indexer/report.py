"""Counts of a run's rows, and the file of rows left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from gmvaluator.errors import MissingData
from gmvaluator.files import atomic_file, atomic_write, private_folder
from indexer.sources.item import Shard

SHOWN = 100
"""Rows left out that a report lists; the file lists all."""

OPT_OUT, REJECT, REMOVED = "opt_out", "reject", "removed"
"""Kinds of rows left out."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that was not indexed, and the reason. kind: "opt_out", "reject" or "removed".

    uri, url and sha256 are of an opt-out: which record it is, and which image it holds, or "". listed: what the opt-out
    list has of it. by_key_alone: whether only its key is listed, which other records may have, too.
    """

    key: str
    reason: str
    kind: str = REJECT
    uri: str = ""
    url: str = ""
    sha256: str = ""
    listed: tuple[str, ...] = ()
    by_key_alone: bool = False


@dataclass(slots=True)
class Counts:
    """Numbers of rows; read == points + duplicates + opt_outs + rejects + removed, always.

    points: new points of the index. duplicates: images whose bytes are indexed already, by this run or an earlier one.
    removed: images that were removed from the index before, and stay out. first_frames: points that show the first of
    several frames or pages.
    """

    read: int = 0
    points: int = 0
    duplicates: int = 0
    opt_outs: int = 0
    rejects: int = 0
    removed: int = 0
    first_frames: int = 0

    @classmethod
    def of(cls, read: int, points: int, duplicates: int, left_out: Iterable[LeftOut]) -> Counts:
        """Return counts of `read` rows, with the rows left out counted by kind."""
        kinds = Counter(row.kind for row in left_out)
        return cls(read, points, duplicates, kinds[OPT_OUT], kinds[REJECT], kinds[REMOVED])

    @property
    def left_out(self) -> int:
        return self.opt_outs + self.rejects + self.removed

    @property
    def reconciles(self) -> bool:
        return self.read == self.points + self.duplicates + self.left_out

    def add(self, other: Counts) -> None:
        """Add the counts of `other`."""
        for name, value in other.as_dict().items():
            setattr(self, name, getattr(self, name) + value)

    def without(self, part: Counts) -> Counts:
        """Return these counts less those of `part`."""
        parts = part.as_dict()
        return Counts(**{name: value - parts[name] for name, value in self.as_dict().items()})

    def __str__(self) -> str:
        return (
            f"{self.read:,} read = {self.points:,} points + {self.duplicates:,} duplicates "
            f"+ {self.opt_outs:,} opt-outs + {self.rejects:,} rejects + {self.removed:,} removed before"
        )

    def as_dict(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, value: Mapping[str, int]) -> Counts:
        """Return the counts of `as_dict`."""
        return cls(**value)


@dataclass(slots=True)
class Report:
    """The counts of a run, and the first `SHOWN` rows that it left out.

    loose: the part of `counts` that is of image files next to tar or Parquet shards; None if the source has none.
    """

    counts: Counts = field(default_factory=Counts)
    left_out: list[LeftOut] = field(default_factory=list)
    loose: Counts | None = None

    def add(self, counts: Counts, left_out: Sequence[LeftOut] = ()) -> None:
        """Add a batch, or the counts of a shard that an earlier run indexed."""
        self.counts.add(counts)
        # Bounded, as a source of millions may be all rejects.
        self.left_out.extend(left_out[: SHOWN - len(self.left_out)])

    def add_shard(self, shard: Shard, counts: Counts) -> None:
        """Add the counts of a shard, which `counts` has already, to those of loose files if it consists of these."""
        if shard.loose:
            self.loose = self.loose or Counts()
            self.loose.add(counts)

    def by_form(self) -> dict[str, Counts]:
        """Return the counts of "shards", and of the "image_files" next to them; empty for a source of one form."""
        return {} if self.loose is None else {"shards": self.counts.without(self.loose), "image_files": self.loose}

    def as_dict(self) -> dict[str, Any]:
        rows = [{"key": row.key, "reason": row.reason, "kind": row.kind} for row in self.left_out]
        by_form = {form: counts.as_dict() for form, counts in self.by_form().items()}
        return {
            **self.counts.as_dict(),
            "reconciles": self.counts.reconciles,
            "by_form": by_form,
            "left_out": rows,
        }


class NothingToIndex(MissingData):
    """The source holds nothing that could be indexed."""


class LeftOutFile:
    """A file of JSON lines {shard, position, key, kind, reason}, one per row left out; each row once.

    An opt-out's line also has its uri, url, sha256 and by_key_alone, and any line what the opt-out list has of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def clear(self) -> None:
        """Empty the file, for a run that reads every row."""
        private_folder(self.path.parent)
        atomic_write(self.path, b"", mode=0o600)

    def rewind(self, shard: str, position: int) -> None:
        """Delete rows of a shard from `position` on, which are about to be read again."""
        if not self.path.exists():
            self.clear()
        with self.path.open("rb") as old, atomic_file(self.path, mode=0o600) as new:
            new.writelines(line for line in old if not _from(line, shard, position))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows."""
        if self.path.exists():
            with self.path.open(encoding="utf-8") as file:
                yield from map(json.loads, file)

    def write(self, shard: str, rows: Sequence[tuple[int, LeftOut]]) -> None:
        """Append rows, each with its position in the shard."""
        if not rows:
            return
        with self.path.open("a", encoding="utf-8") as file:
            for position, row in rows:
                line = {"shard": shard, "position": position, "key": row.key, "kind": row.kind, "reason": row.reason}
                details = {name: value for name in _DETAILS if (value := getattr(row, name))}
                file.write(json.dumps({**line, **details}, ensure_ascii=False) + "\n")


_DETAILS = ("uri", "url", "sha256", "listed", "by_key_alone")


def _from(line: bytes, shard: str, position: int) -> bool:
    """Return whether a line is of `shard` from `position` on, or was truncated when its process was killed."""
    try:
        row = json.loads(line)
    except ValueError:
        return True
    return bool(row["shard"] == shard and row["position"] >= position)
