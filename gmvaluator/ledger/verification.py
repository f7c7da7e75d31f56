"""Checking every row of the ledger: links, digests, sums and kept balances, naming the first row that is wrong.

Checking the table of decisions: each row says what its posting's evidence says, and no row is missing or extra.

The outcome of the last check of the ledger, kept in the data folder so that metrics can tell it.

Recomputing a posting from its evidence alone: what an auditor does.

A backup is worth what can be read from it: its schema and its head.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, String, select, type_coerce

from gmvaluator.accounts import ISSUANCE
from gmvaluator.errors import GmvaluatorError, PreconditionFailed
from gmvaluator.files import atomic_write
from gmvaluator.ledger import hash_chain
from gmvaluator.ledger.decision import Decision, Links
from gmvaluator.ledger.decision_effects import decision_entries
from gmvaluator.ledger.posting import recompute_entries
from gmvaluator.ledger.reader import HEADER_COLUMNS, LedgerReader, read_head
from gmvaluator.ledger.records import ATTRIBUTION, Entry, Evidence, PostingHeader, StoredPosting
from gmvaluator.ledger.results import Head, Problem, Replay, Verification
from gmvaluator.ledger.schema import REVISION, balances, decisions, entries, evidence, head, postings
from gmvaluator.storage.schema import check_revision
from gmvaluator.storage.sqlite import reading_engine

_COLUMNS = ("kind", *Links.__dataclass_fields__)


def decision_problems(connection: Connection) -> Iterator[Problem]:
    """Findings, in order; nothing if all is well. The postings themselves are taken to be sound."""
    query = (
        select(postings.c.sequence, postings.c.kind.label("posted_kind"), evidence.c.body, *decisions.c)
        .select_from(
            postings.outerjoin(decisions, decisions.c.sequence == postings.c.sequence).join(
                evidence, evidence.c.sequence == postings.c.sequence
            )
        )
        .where((postings.c.kind != ATTRIBUTION) | decisions.c.sequence.is_not(None))
        .order_by(postings.c.sequence)
    )
    for row in connection.execute(query):
        what = _difference(row.posted_kind, {name: getattr(row, name) for name in _COLUMNS}, row.body)
        if what is not None:
            yield Problem(row[0], None, what)
    orphans = select(decisions.c.sequence).where(decisions.c.sequence.not_in(select(postings.c.sequence)))
    for sequence in connection.execute(orphans.order_by(decisions.c.sequence)).scalars():
        yield Problem(sequence, None, "decision belongs to no posting: it was inserted, or its posting was removed")


def _difference(posted_kind: str, row: dict[str, object], body: bytes) -> str | None:
    if posted_kind == ATTRIBUTION:
        return "decision stands beside a generation's posting: it was inserted"
    if row["kind"] is None:
        return "decision's links are missing: they were removed"
    decision = Decision.from_json(zlib.decompress(body))
    right = {"kind": decision.kind, **decision.links.as_dict()}
    wrong = [name for name in _COLUMNS if row[name] != right[name]]
    return f"decision's {wrong[0]} is not what its evidence says: it was changed" if wrong else None


FILE_NAME = "ledger-verification.json"
_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class LastVerification:
    """verified_at: seconds since 1970, UTC, when the check ended. ok: nothing was found. postings: how many it read."""

    verified_at: float
    ok: bool
    postings: int


def record_verification(folder: Path, found: Verification | None) -> None:
    """Keep an outcome, in one step, in place of the one before; None for a ledger that could not even be read.

    Raises PreconditionFailed if the folder is not writable.
    """
    ok, postings = (False, 0) if found is None else (found.ok, found.postings)
    kept = LastVerification(datetime.now(UTC).timestamp(), ok, postings)
    try:
        atomic_write(folder / FILE_NAME, json.dumps(asdict(kept)))
    except OSError as error:
        raise PreconditionFailed(f"the outcome cannot be kept in {folder}: {error.strerror}") from error


def read_verification(folder: Path) -> LastVerification | None:
    """What was kept last; None if nothing was, or if it cannot be read."""
    try:
        with (folder / FILE_NAME).open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))
        return LastVerification(float(found["verified_at"]), bool(found["ok"]), int(found["postings"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def replay(posting: StoredPosting) -> Replay:
    """Value the posting's evidence again, by the policy parameters in it, and compare with its entries.

    A decision's entries follow from its facts instead.
    """
    entries = recomputed(posting.header.kind, posting.evidence_json)
    return Replay(entries, entries == posting.entries)


def recomputed(kind: str, evidence_json: bytes) -> tuple[Entry, ...]:
    """Entries that follow from a posting's evidence. Raises ValueError, KeyError or TypeError if it is none."""
    if kind == ATTRIBUTION:
        return recompute_entries(Evidence.from_json(evidence_json))
    return decision_entries(Decision.from_json(evidence_json))


_PAGE = 500
_WORKS = 100_000
_ORPHAN = "belongs to no posting: it was inserted, or its posting was removed"


def verify(engine: Engine, expected: Head | None = None) -> Verification:
    """Check the whole ledger in one snapshot, up to the first finding.

    expected: a head handed out before (with a FINAL, or by an earlier check); the chain must still pass through
    it, so that a ledger which was cut short and given a new head row shows.
    """
    with engine.connect() as connection:
        check = _Check(connection, expected)
        first = next(check.problems(), None)
    return Verification(check.postings, check.entries, check.head, first)


@dataclass(slots=True)
class _Page:
    """Some postings in sequence, and all entries and evidence that lie between the page before and its end."""

    headers: list[tuple[PostingHeader, str]]
    lines: dict[int, dict[int, Entry]]
    bodies: dict[int, bytes]


@dataclass(slots=True)
class _Check:
    """One pass over the ledger, with what it has counted and summed so far."""

    connection: Connection
    expected: Head | None
    head: Head = field(init=False)
    last: Head = field(default_factory=lambda: Head(0, hash_chain.GENESIS_HASH))
    postings: int = 0
    entries: int = 0
    issued_micros: int = 0
    sums: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.head = read_head(self.connection)

    def problems(self) -> Iterator[Problem]:
        """Findings by sequence ascending, then those about the end of the chain and the kept sums."""
        for page in _pages(self.connection):
            found = [problem for header, stored in page.headers for problem in self._posting(page, header, stored)]
            found += [Problem(sequence, min(lines), f"entry {_ORPHAN}") for sequence, lines in page.lines.items()]
            found += [Problem(sequence, None, f"evidence {_ORPHAN}") for sequence in page.bodies]
            yield from sorted(found, key=lambda problem: problem.sequence)
        yield from self._end_of_chain()
        yield from self._kept_sums()

    def _posting(self, page: _Page, header: PostingHeader, stored_hash: str) -> Iterator[Problem]:
        lines, body = page.lines.pop(header.sequence, {}), page.bodies.pop(header.sequence, None)
        yield from self._link(header, stored_hash)
        yield from _content(header, lines, body)
        yield from self._pass_expected(header.sequence, stored_hash)
        self.last = Head(header.sequence, stored_hash)
        self.postings += 1
        self.entries += len(lines)
        self.issued_micros += header.issued_micros
        for entry in lines.values():
            self.sums[entry.account] += entry.amount_micros

    def _link(self, header: PostingHeader, stored_hash: str) -> Iterator[Problem]:
        sequence = header.sequence
        if sequence != self.last.sequence + 1:
            yield Problem(self.last.sequence + 1, None, "posting is missing: it was removed or re-ordered")
        if header.chain_hash() != stored_hash:
            yield Problem(sequence, None, "posting is not what was hashed: it was changed or re-ordered")
        if header.previous_hash != self.last.hash:
            yield Problem(sequence, None, "posting does not follow the one before: rows were inserted or re-ordered")

    def _pass_expected(self, sequence: int, stored_hash: str) -> Iterator[Problem]:
        if self.expected is not None and sequence == self.expected.sequence and stored_hash != self.expected.hash:
            yield Problem(sequence, None, "posting has another hash than was handed out: history was rewritten")

    def _end_of_chain(self) -> Iterator[Problem]:
        if self.expected is not None and self.expected.sequence > self.last.sequence:
            yield Problem(self.last.sequence + 1, None, f"posting is missing: {self.expected.sequence} were handed out")
        if self.last.sequence < self.head.sequence:
            yield Problem(self.last.sequence + 1, None, f"posting is missing: the head is at {self.head.sequence}")
        if self.last.sequence > self.head.sequence:
            yield Problem(self.head.sequence + 1, None, "posting lies after the head: it was inserted")
        if self.last.hash != self.head.hash:
            yield Problem(self.last.sequence, None, "posting is not the one that the head names: it was replaced")

    def _kept_sums(self) -> Iterator[Problem]:
        kept = {row.account: row.balance_micros for row in self.connection.execute(select(*balances.c))}
        for account in sorted(kept.keys() | self.sums.keys()):
            if kept.get(account, 0) != self.sums[account]:
                what = f"balance of {account} is {kept.get(account, 0)}, its entries sum to {self.sums[account]}"
                yield Problem(self.last.sequence, None, what)
        issued = self.connection.execute(select(head.c.issued_micros)).scalar_one()
        if issued != self.issued_micros:
            what = f"the head says {issued} was issued, the postings say {self.issued_micros}"
            yield Problem(self.last.sequence, None, what)


def _pages(connection: Connection) -> Iterator[_Page]:
    after = -(2**62)
    headers = [postings.c[name] for name in HEADER_COLUMNS]
    while True:
        query = select(*headers, postings.c.hash).where(postings.c.sequence > after)
        rows = connection.execute(query.order_by(postings.c.sequence).limit(_PAGE)).all()
        full = len(rows) == _PAGE
        upto = rows[-1][0] if full else 2**62
        yield _Page(
            [(PostingHeader(*row[:-1]), row[-1]) for row in rows],
            _lines(connection, after, upto),
            _bodies(connection, after, upto),
        )
        if not full:
            return
        after = upto


def _lines(connection: Connection, after: int, upto: int) -> dict[int, dict[int, Entry]]:
    # As the database keeps it: the same works come again and again, and making a UUID is half the work of this check.
    work = entries.c.training_image_id
    raw = type_coerce(work, String) if connection.dialect.name == "sqlite" else work
    query = select(entries.c.sequence, entries.c.line, entries.c.account, raw, entries.c.amount_micros)
    query = query.where(entries.c.sequence > after, entries.c.sequence <= upto)
    lines: dict[int, dict[int, Entry]] = {}
    for sequence, line, account, one, amount in connection.execute(query.order_by(entries.c.sequence, entries.c.line)):
        lines.setdefault(sequence, {})[line] = Entry(account, _work(one), amount)
    return lines


@lru_cache(maxsize=_WORKS)
def _work(stored: Any) -> Any:
    """A training image's id; what is stored, if it is none, so that its posting is found to be changed."""
    try:
        found = uuid.UUID(hex=stored) if isinstance(stored, str) else stored
    except ValueError:
        return stored
    return stored if isinstance(stored, str) and found.hex != stored else found


def _bodies(connection: Connection, after: int, upto: int) -> dict[int, bytes]:
    query = select(*evidence.c).where(evidence.c.sequence > after, evidence.c.sequence <= upto)
    return {row.sequence: row.body for row in connection.execute(query)}


def _content(header: PostingHeader, lines: dict[int, Entry], body: bytes | None) -> Iterator[Problem]:
    """Findings about a posting's entries and evidence."""
    sequence = header.sequence
    evidence_json = _decompress(body)
    sound = evidence_json is not None and hash_chain.evidence_digest(evidence_json) == header.evidence_digest
    in_order = list(lines) == list(range(len(lines)))
    if not in_order or hash_chain.entries_digest(list(lines.values())) != header.entries_digest:
        yield _wrong_line(header, lines, evidence_json if sound else None)
    if sum(entry.amount_micros for entry in lines.values()) != 0:
        yield Problem(sequence, None, "entries of the posting do not sum to zero")
    if sum(-entry.amount_micros for entry in lines.values() if entry.account == ISSUANCE) != header.issued_micros:
        yield Problem(sequence, None, "posting and its issuance entry differ in what was issued")
    if not sound:
        what = "evidence is missing: it was removed" if body is None else "evidence is not what was hashed"
        yield Problem(sequence, None, what)


def _decompress(body: bytes | None) -> bytes | None:
    try:
        return None if body is None else zlib.decompress(body)
    except zlib.error:
        return None


def _wrong_line(header: PostingHeader, lines: dict[int, Entry], evidence_json: bytes | None) -> Problem:
    """Name the line at fault by what follows from the evidence, if the evidence itself is sound."""
    sequence = header.sequence
    try:
        right = dict(enumerate(recomputed(header.kind, evidence_json))) if evidence_json is not None else {}
    except (GmvaluatorError, ValueError, KeyError, TypeError):
        right = {}
    for line in sorted(lines.keys() | right.keys()) if right else ():
        if line not in lines:
            return Problem(sequence, line, f"entry was removed; the evidence says {_shown(right[line])}")
        if line not in right:
            return Problem(sequence, line, f"entry was inserted: {_shown(lines[line])}")
        if lines[line] != right[line]:
            return Problem(
                sequence, line, f"entry was changed: {_shown(lines[line])}; the evidence says {_shown(right[line])}"
            )
    return Problem(sequence, None, "entries are not those that were hashed")


def _shown(entry: Entry) -> str:
    return f"{entry.account} {entry.amount_micros} for {entry.training_image_id or 'no work'}"


def check_backup(file: Path) -> Head:
    """The head of a copied ledger. Raises PreconditionFailed or LedgerCorrupt if it is none of this version's."""
    engine = reading_engine(file)
    try:
        check_revision(engine, REVISION)
        return LedgerReader(engine).head()
    finally:
        engine.dispose()
