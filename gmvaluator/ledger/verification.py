"""Verification of the ledger: every row, decisions and their references, recomputation, and backups.

`verify` reads the whole ledger and stops at the first row that is wrong. `replay` recomputes one posting from its
evidence, as an auditor does. The outcome of the last check is kept in the data folder, where metrics read it.
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

from gmvaluator.accounts import ISSUANCE, OWNER_PREFIX
from gmvaluator.errors import GmvaluatorError, PreconditionFailed
from gmvaluator.files import atomic_write
from gmvaluator.ledger import hash_chain
from gmvaluator.ledger.decision import PAYOUT, Decision, Links
from gmvaluator.ledger.decision_effects import decision_entries
from gmvaluator.ledger.posting import recompute_entries
from gmvaluator.ledger.reader import HEADER_COLUMNS, LedgerReader, read_head
from gmvaluator.ledger.records import ATTRIBUTION, Entry, Evidence, PostingHeader, StoredPosting
from gmvaluator.ledger.results import Head, Problem, Replay, Verification
from gmvaluator.ledger.schema import REVISION, balances, decisions, entries, evidence, head, postings
from gmvaluator.ledger.triggers import trigger_problems
from gmvaluator.storage.schema import check_revision
from gmvaluator.storage.sqlite import reading_engine

OUTCOME_FILE_NAME = "ledger-verification.json"
_OUTCOME_MAX_BYTES = 4096

_POSTINGS_PER_PAGE = 500
_CACHED_WORKS = 100_000
_ORPHAN = "belongs to no posting: it was inserted, or its posting was removed"

_DECISION_COLUMNS = ("kind", *Links.__dataclass_fields__)


def verify(engine: Engine, expected: Head | None = None) -> Verification:
    """Check the whole ledger in one snapshot, up to the first finding.

    expected: a head that was handed out before (with a FINAL, or by an earlier check). The chain must still contain it,
    which reveals a ledger that was cut short and given a new head row.
    """
    with engine.connect() as connection:
        check = _Check(connection, expected)
        first = next(check.problems(), None)
    return Verification(check.postings, check.entries, check.head, first)


@dataclass(slots=True)
class _Page:
    """Consecutive postings, and all entries and evidence with sequences after the previous page up to their end.

    lines: sequence to line to entry. bodies: sequence to compressed evidence. Rows that belong to no posting are here
    too, so that they are found.
    """

    headers: list[tuple[PostingHeader, str]]
    lines: dict[int, dict[int, Entry]]
    bodies: dict[int, bytes]


@dataclass(slots=True)
class _Check:
    """One pass over the ledger: the counts and sums so far, and `last`, the posting that was checked last."""

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
        """Yield findings by sequence ascending, then those about the end of the chain and the stored balances."""
        for page in _pages(self.connection):
            problems = [problem for header, stored in page.headers for problem in self._posting(page, header, stored)]
            # `_posting` took out what belongs to a posting; what is left belongs to none.
            problems += [Problem(sequence, min(lines), f"entry {_ORPHAN}") for sequence, lines in page.lines.items()]
            problems += [Problem(sequence, None, f"evidence {_ORPHAN}") for sequence in page.bodies]
            yield from sorted(problems, key=lambda problem: problem.sequence)
        yield from self._end_of_chain()
        yield from self._balances()
        yield from trigger_problems(self.connection, self.last.sequence)

    def _posting(self, page: _Page, header: PostingHeader, stored_hash: str) -> Iterator[Problem]:
        lines, body = page.lines.pop(header.sequence, {}), page.bodies.pop(header.sequence, None)
        yield from self._link(header, stored_hash)
        yield from _content(header, lines, body)
        yield from self._expected_head(header.sequence, stored_hash)
        self.last = Head(header.sequence, stored_hash)
        self.postings += 1
        self.entries += len(lines)
        self.issued_micros += header.issued_micros
        for entry in lines.values():
            self.sums[entry.account] += entry.amount_micros
        if header.kind == PAYOUT:
            yield from self._overpaid(header.sequence, lines)

    def _overpaid(self, sequence: int, lines: dict[int, Entry]) -> Iterator[Problem]:
        # Reversals of paid credits leave a debt, which is sound; a payout that makes one pays more than was earned.
        for line, entry in lines.items():
            if entry.account.startswith(OWNER_PREFIX) and self.sums[entry.account] < 0:
                what = f"payout leaves {entry.account} at {self.sums[entry.account]}: it was paid more than it earned"
                yield Problem(sequence, line, what)

    def _link(self, header: PostingHeader, stored_hash: str) -> Iterator[Problem]:
        sequence = header.sequence
        if sequence != self.last.sequence + 1:
            yield Problem(self.last.sequence + 1, None, "posting is missing: it was removed or re-ordered")
        if header.chain_hash() != stored_hash:
            yield Problem(sequence, None, "posting is not what was hashed: it was changed or re-ordered")
        if header.previous_hash != self.last.hash:
            yield Problem(sequence, None, "posting does not follow the one before: rows were inserted or re-ordered")

    def _expected_head(self, sequence: int, stored_hash: str) -> Iterator[Problem]:
        if self.expected is not None and sequence == self.expected.sequence and stored_hash != self.expected.hash:
            yield Problem(sequence, None, "posting has another hash than was handed out: history was rewritten")

    def _end_of_chain(self) -> Iterator[Problem]:
        if self.expected is not None and self.expected.sequence > self.last.sequence:
            yield Problem(self.last.sequence + 1, None, f"posting is missing: {self.expected.sequence} were handed out")
        if self.last.sequence < self.head.sequence:
            yield Problem(self.last.sequence + 1, None, f"posting is missing: the head is at {self.head.sequence}")
        if self.last.sequence > self.head.sequence:
            yield Problem(self.head.sequence + 1, None, "posting is after the head: it was inserted")
        if self.last.hash != self.head.hash:
            yield Problem(self.last.sequence, None, "posting is not the one that the head names: it was replaced")

    def _balances(self) -> Iterator[Problem]:
        stored = {row.account: row.balance_micros for row in self.connection.execute(select(*balances.c))}
        for account in sorted(stored.keys() | self.sums.keys()):
            if account not in stored:
                yield Problem(self.last.sequence, None, f"balance of {account} is missing: it was removed")
            elif account not in self.sums:
                yield Problem(self.last.sequence, None, f"balance of {account} has no entries: it was inserted")
            elif stored[account] != self.sums[account]:
                what = f"balance of {account} is {stored[account]}, its entries sum to {self.sums[account]}"
                yield Problem(self.last.sequence, None, what)
        issued = self.connection.execute(select(head.c.issued_micros)).scalar_one()
        if issued != self.issued_micros:
            what = f"the head says {issued} was issued, the postings say {self.issued_micros}"
            yield Problem(self.last.sequence, None, what)


def _pages(connection: Connection) -> Iterator[_Page]:
    # Inserted rows may have any sequence, also one below 1.
    after = -(2**62)
    headers = [postings.c[name] for name in HEADER_COLUMNS]
    while True:
        query = select(*headers, postings.c.hash).where(postings.c.sequence > after)
        rows = connection.execute(query.order_by(postings.c.sequence).limit(_POSTINGS_PER_PAGE)).all()
        full = len(rows) == _POSTINGS_PER_PAGE
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
    # SQLite's own text is read and cached as a UUID below: the same works occur in many postings, and making UUIDs took
    # half the time of this check.
    work = entries.c.training_image_id
    raw = type_coerce(work, String) if connection.dialect.name == "sqlite" else work
    query = select(entries.c.sequence, entries.c.line, entries.c.account, raw, entries.c.amount_micros)
    query = query.where(entries.c.sequence > after, entries.c.sequence <= upto)
    lines: dict[int, dict[int, Entry]] = {}
    rows = connection.execute(query.order_by(entries.c.sequence, entries.c.line))
    for sequence, line, account, stored_work, amount in rows:
        lines.setdefault(sequence, {})[line] = Entry(account, _work(stored_work), amount)
    return lines


_NOT_CANONICAL = "not canonical: "
"""Mark of a stored work that is not 32 hex digits."""


@lru_cache(maxsize=_CACHED_WORKS)
def _work(stored: Any) -> Any:
    """Return a training image's id from its stored form.

    A value in any other form is returned marked, so that the digest of the posting's entries shows the change.
    """
    if not isinstance(stored, str):
        return stored
    try:
        work = uuid.UUID(hex=stored)
    except ValueError:
        return _NOT_CANONICAL + stored
    # A UUID with dashes has the digest of its hex digits, but queries by work would not find the entry.
    return work if work.hex == stored else _NOT_CANONICAL + stored


def _bodies(connection: Connection, after: int, upto: int) -> dict[int, bytes]:
    query = select(*evidence.c).where(evidence.c.sequence > after, evidence.c.sequence <= upto)
    return {row.sequence: row.body for row in connection.execute(query)}


def _content(header: PostingHeader, lines: dict[int, Entry], body: bytes | None) -> Iterator[Problem]:
    """Yield findings about a posting's entries and evidence."""
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
    """Return the finding that names the line at fault, by comparing with the entries that follow from the evidence.

    evidence_json: None if the evidence itself is not sound; then no line can be named.
    """
    sequence = header.sequence
    try:
        right = dict(enumerate(entries_from_evidence(header.kind, evidence_json))) if evidence_json is not None else {}
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


def decision_problems(connection: Connection) -> Iterator[Problem]:
    """Yield each decision whose row differs from its evidence, is missing or is extra.

    The postings themselves are assumed to be sound.
    """
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
        what = _decision_difference(row.posted_kind, {name: getattr(row, name) for name in _DECISION_COLUMNS}, row.body)
        if what is not None:
            yield Problem(row[0], None, what)
    orphans = select(decisions.c.sequence).where(decisions.c.sequence.not_in(select(postings.c.sequence)))
    for sequence in connection.execute(orphans.order_by(decisions.c.sequence)).scalars():
        yield Problem(sequence, None, "decision belongs to no posting: it was inserted, or its posting was removed")


def _decision_difference(posted_kind: str, row: dict[str, object], body: bytes) -> str | None:
    if posted_kind == ATTRIBUTION:
        return "decision has the sequence of a generation's posting: it was inserted"
    if row["kind"] is None:
        return "decision's links are missing: they were removed"
    decision = Decision.from_json(zlib.decompress(body))
    expected = {"kind": decision.kind, **decision.links.as_dict()}
    wrong = [name for name in _DECISION_COLUMNS if row[name] != expected[name]]
    return f"decision's {wrong[0]} is not what its evidence says: it was changed" if wrong else None


def replay(posting: StoredPosting) -> Replay:
    """Recompute a posting's entries from its evidence and compare them with those that were posted.

    A generation is valued by the policy parameters in the evidence; a decision's entries follow from its facts.
    """
    entries = entries_from_evidence(posting.header.kind, posting.evidence_json)
    return Replay(entries, entries == posting.entries)


def entries_from_evidence(kind: str, evidence_json: bytes) -> tuple[Entry, ...]:
    """Return the entries that follow from a posting's evidence.

    Raises ValueError, KeyError or TypeError if the evidence is malformed.
    """
    if kind == ATTRIBUTION:
        return recompute_entries(Evidence.from_json(evidence_json))
    return decision_entries(Decision.from_json(evidence_json))


@dataclass(frozen=True, slots=True)
class LastVerification:
    """The outcome of the last check.

    verified_at: seconds since 1970, UTC, when the check ended. ok: it found nothing. postings: how many it read.
    """

    verified_at: float
    ok: bool
    postings: int


def record_verification(folder: Path, result: Verification | None) -> None:
    """Store the outcome of a check in the data folder, replacing the one before.

    result: None for a ledger that could not be read. Raises PreconditionFailed if the folder is not writable.
    """
    ok, postings = (False, 0) if result is None else (result.ok, result.postings)
    outcome = LastVerification(datetime.now(UTC).timestamp(), ok, postings)
    try:
        atomic_write(folder / OUTCOME_FILE_NAME, json.dumps(asdict(outcome)))
    except OSError as error:
        raise PreconditionFailed(f"the outcome cannot be kept in {folder}: {error.strerror}") from error


def read_verification(folder: Path) -> LastVerification | None:
    """Return the outcome of the last check; None if there is none or it cannot be read."""
    try:
        with (folder / OUTCOME_FILE_NAME).open("rb") as file:
            outcome = json.loads(file.read(_OUTCOME_MAX_BYTES))
        return LastVerification(float(outcome["verified_at"]), bool(outcome["ok"]), int(outcome["postings"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def check_backup(file: Path) -> Head:
    """Return the head of a backup file, which shows that it can be read.

    Raises PreconditionFailed or LedgerCorrupt if it is no ledger of this version.
    """
    engine = reading_engine(file)
    try:
        check_revision(engine, REVISION)
        return LedgerReader(engine).head()
    finally:
        engine.dispose()
