"""The list of images whose owners opted out, as `index add --opt-out` takes it, and the report of how it was obeyed."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from gmvaluator.catalogue.reader import CatalogueReader
from gmvaluator.catalogue.removal import OptedOut, OptedOutWorks
from gmvaluator.catalogue.tombstones import Record
from gmvaluator.ids import sha256_hex
from indexer.name_list import Entry, Unmatched, parse_list, read_list, spellings, write_unmatched
from indexer.report import OPT_OUT, LeftOutFile


@dataclass(frozen=True, slots=True)
class OptOutList:
    """SHA-256s, and keys, URLs and URIs in every spelling that is compared. lines: of the file that they come from."""

    sha256s: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    lines: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> OptOutList:
        """Read a list; see `indexer.name_list`. Raises MissingData, InvalidInput."""
        lines = tuple(read_list(path))
        sha256s: set[str] = set()
        names: set[str] = set()
        for entry in parse_list(lines, path):
            if entry.sha256:
                sha256s.add(entry.sha256)
            # Keys may be hashes, too.
            names.update(entry.names or (entry.text,))
        return cls(frozenset(sha256s), frozenset(names), lines)

    @property
    def digest(self) -> str:
        """A hash that differs between lists; "" for an empty list."""
        listed = sorted(self.names | self.sha256s)
        return sha256_hex("\n".join(listed).encode()) if listed else ""

    def named(self, *names: str) -> tuple[str, ...]:
        """Return the listed spellings of `names`, in their order; a name may be ""."""
        if not self.names:
            return ()
        return tuple(spelling for name in names if name for spelling in spellings(name) if spelling in self.names)

    def hashes(self, *sha256s: str | None) -> tuple[str, ...]:
        """Return those of `sha256s` that are listed, each once; a SHA-256 may be None or ""."""
        return tuple(dict.fromkeys(sha256 for sha256 in sha256s if sha256 and sha256 in self.sha256s))

    def unmatched(self, matched: Set[str]) -> Iterator[Entry]:
        """Yield the entries none of whose spellings and hashes is in `matched`."""
        for entry in parse_list(self.lines, "given"):
            if not entry.is_comment and matched.isdisjoint((entry.sha256, entry.text, *entry.names)):
                yield entry


NO_OPT_OUTS = OptOutList()
"""No list."""


@dataclass(frozen=True, slots=True)
class StillIndexed:
    """Works that are found and paid although their owners opted out.

    works: every record of which is opted out; `file` lists their SHA-256s. shared: number of works that other records
    hold too, whose owners did not opt out; `shared_file` lists them.
    """

    works: int
    file: Path
    shared: int
    shared_file: Path

    def as_dict(self) -> dict[str, object]:
        """Return plain data."""
        files = {"file": str(self.file), "shared_file": str(self.shared_file) if self.shared else None}
        return {"works": self.works, "shared": self.shared, **files}


@dataclass(frozen=True, slots=True)
class OptOutReport:
    """How a run obeyed opt-outs.

    still_indexed: works that an earlier run indexed, or None. unmatched: entries of the list that named nothing, or
    None. shared_keys: keys of the list that several records have: those that were read were left out, and those that
    were indexed before stay.
    """

    still_indexed: StillIndexed | None = None
    unmatched: Unmatched | None = None
    shared_keys: tuple[str, ...] = ()


def opt_out_report(
    catalogue: CatalogueReader, data_set: str | None, opt_outs: OptOutList, left_out: LeftOutFile, complete: bool
) -> OptOutReport:
    """Report how a run obeyed opt-outs. data_set: of its records; None if they are of several.

    complete: whether every row was read; else no entry is called unmatched.

    An opt-out leaves out rows that are read and removes nothing: works that were indexed before are listed in a file,
    which `gmvaluator index remove --from` takes.
    """
    seen = _Seen.by(data_set or "", left_out)
    found = catalogue.opted_out_works(
        data_set, OptedOut(opt_outs.sha256s, opt_outs.names, seen.shared_keys, seen.records)
    )
    unmatched = None
    file = left_out.path.with_suffix(".unmatched.txt")
    if complete:
        known = catalogue.known_names(data_set, opt_outs.names - seen.listed)
        known |= catalogue.known_or_removed(opt_outs.sha256s - seen.listed)
        unmatched = write_unmatched(file, opt_outs.unmatched(seen.listed | known))
    still = _write_works(found, left_out.path)
    return OptOutReport(still, unmatched, tuple(sorted(seen.shared_keys.union(found.ambiguous))))


@dataclass(frozen=True, slots=True)
class _Seen:
    """Opt-outs in a file of rows left out; see `OptedOut`. listed: what the list has of them."""

    records: set[tuple[Record, str]]
    listed: set[str]
    shared_keys: set[str]

    @classmethod
    def by(cls, data_set: str, left_out: LeftOutFile) -> _Seen:
        """Return the opt-outs of a file."""
        listed: set[str] = set()
        uris: dict[str, set[str]] = {}
        rows: list[tuple[Record, str, bool]] = []
        for row in left_out.rows():
            listed.update(row.get("listed", ()))
            if row["kind"] == OPT_OUT:
                record = Record(data_set, row["key"], row.get("uri", ""), row.get("url", ""))
                by_key_alone = row.get("by_key_alone", False)
                rows.append((record, row.get("sha256", ""), by_key_alone))
                if by_key_alone:
                    uris.setdefault(record.key, set()).add(record.uri)
        shared = {key for key, places in uris.items() if len(places) > 1}
        kept = {(record, sha256) for record, sha256, by_key in rows if not (by_key and record.key in shared)}
        return cls(kept, listed, shared)


def _write_works(found: OptedOutWorks, path: Path) -> StillIndexed | None:
    """Write the files next to the file of rows left out, and delete those that would be empty."""
    files = []
    for sha256s, ending in ((found.exact, ".still-indexed.txt"), (found.shared, ".shared.txt")):
        file = path.with_suffix(ending)
        files.append(file)
        if sha256s:
            file.write_text("".join(f"{sha256}\n" for sha256 in sha256s), encoding="utf-8")
        else:
            file.unlink(missing_ok=True)
    if not (found.exact or found.shared):
        return None
    return StillIndexed(len(found.exact), files[0], len(found.shared), files[1])
