"""Writing postings: a group of them in one transaction, each in a savepoint of its own, each key once for ever."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, select, update
from sqlalchemy.exc import IntegrityError

from gmvaluator.database.utc import utc_text
from gmvaluator.errors import Conflict, InvalidInput, LedgerCorrupt
from gmvaluator.ledger import chain
from gmvaluator.ledger.answers import Outcome, Posted, Refused, Replayed
from gmvaluator.ledger.decisions import DECIDER, HOLD, PAYOUT, NewDecision
from gmvaluator.ledger.fingerprint import check_repeat
from gmvaluator.ledger.inserting import RowWriter
from gmvaluator.ledger.records import NewPosting, PostingHeader, StoredPosting
from gmvaluator.ledger.rows import load, postings_where
from gmvaluator.ledger.schema import (
    MAX_IDENTITY_CHARACTERS,
    balances,
    decisions,
    entries,
    evidence,
    head,
    postings,
)

MAX_BATCH = 1_000
"""Postings in one transaction at most."""

MAX_ENTRIES = 10_000
"""Entries of one posting at most."""

MAX_AMOUNT_MICROS = 10**15
"""One entry at most: a billion credits, so that no sum leaves 64 bits."""

AnyPosting = NewPosting | NewDecision
"""What can be posted."""


class NotPostable(LedgerCorrupt):
    """The database refused one posting that our checks let pass; its savepoint was rolled back."""


class BatchWriter:
    """Posts one batch on a connection that is in a transaction; the caller commits, then hands out `outcomes`."""

    def __init__(self, connection: Connection, posted_at: datetime) -> None:
        self._connection = connection
        self._rows = RowWriter(connection)
        self._posted_at = utc_text(posted_at)
        # Taken before any key is looked up: on PostgreSQL this row's lock keeps other writers out until commit.
        row = connection.execute(select(head.c.sequence, head.c.hash, head.c.issued_micros).with_for_update()).one()
        self._sequence, self._hash, self._issued_micros = row
        self._sums: dict[str, int] = {}

    def post(self, batch: Sequence[AnyPosting]) -> list[Outcome]:
        """One outcome for each of `batch`, in its order."""
        stored = self._stored([posting.generation_id for posting in batch])
        first = self._sequence
        outcomes = [self._outcome(posting, stored) for posting in batch]
        if self._sequence > first:
            self._keep_sums()
        return outcomes

    def _stored(self, generation_ids: Sequence[str]) -> dict[tuple[str, str], StoredPosting]:
        found = load(self._connection, postings_where(postings.c.generation_id.in_(generation_ids)))
        return {posting.key: posting for posting in found}

    def _outcome(self, posting: AnyPosting, stored: dict[tuple[str, str], StoredPosting]) -> Outcome:
        try:
            before = stored.get(posting.key)
            if before is not None:
                check_repeat(before, posting)
                return Replayed(before)
            _check(posting)
            self._check_funds(posting)
            made = stored[posting.key] = self._append(posting)
        except (InvalidInput, Conflict, NotPostable) as error:
            return Refused(error)
        return Posted(made)

    def _check_funds(self, posting: AnyPosting) -> None:
        """Holds and payouts take what was there when they were decided; another may have taken it meanwhile."""
        if posting.kind not in (HOLD, PAYOUT):
            return
        for account, amount_micros in posting.sums.items():
            has = self._balance(account)
            if amount_micros < 0 and has + amount_micros < 0:
                raise Conflict(
                    f"{posting.generation_id} takes {-amount_micros:,} micro-credits of {account}, which has {has:,}: "
                    "another decision was posted meanwhile; run the command again"
                )

    def _balance(self, account: str) -> int:
        query = select(balances.c.balance_micros).where(balances.c.account == account)
        stored = self._connection.execute(query).scalar_one_or_none() or 0
        return stored + self._sums.get(account, 0)

    def _append(self, posting: AnyPosting) -> StoredPosting:
        made = self._chained(posting)
        try:
            with self._rows.savepoint():
                self._insert(made, posting)
        except IntegrityError as error:
            raise NotPostable(
                f"generation {posting.generation_id} cannot be posted as {made.sequence} ({error.orig}); "
                "run `gmvaluator ledger verify`"
            ) from error
        self._sequence, self._hash = made.sequence, made.hash
        self._issued_micros += made.header.issued_micros
        for account, amount_micros in posting.sums.items():
            self._sums[account] = self._sums.get(account, 0) + amount_micros
        return made

    def _chained(self, posting: AnyPosting) -> StoredPosting:
        facts = posting.header_facts
        header = PostingHeader(
            sequence=self._sequence + 1,
            kind=posting.kind,
            generator_identity=posting.generator_identity,
            generation_id=posting.generation_id,
            image_sha256=facts.image_sha256,
            model_version=facts.model_version,
            policy=facts.policy,
            profile_hash=facts.profile_hash,
            generated_at=utc_text(posting.generated_at),
            posted_at=self._posted_at,
            issued_micros=facts.issued_micros,
            entries_digest=posting.entries_digest,
            evidence_digest=posting.evidence_digest,
            previous_hash=self._hash,
        )
        return StoredPosting(header, chain.header_hash(header), posting.entries, posting.evidence_json)

    def _insert(self, made: StoredPosting, posting: AnyPosting) -> None:
        sequence = made.sequence
        self._rows.insert(postings, [(*made.header.values(), made.hash)])
        self._rows.insert(entries, [(sequence, *line) for line in posting.lines])
        self._rows.insert(evidence, [(sequence, posting.evidence_body)])
        if isinstance(posting, NewDecision):
            links = posting.decision.links.as_dict()
            self._rows.insert(decisions, [(sequence, posting.kind, *links.values())])

    def _keep_sums(self) -> None:
        values = {"sequence": self._sequence, "hash": self._hash, "issued_micros": self._issued_micros}
        self._connection.execute(update(head).values(values))
        self._rows.add_to_balances(sorted(self._sums.items()))


def _check(posting: AnyPosting) -> None:
    where = f"generation {posting.generation_id}"
    amounts = [entry.amount_micros for entry in posting.entries]
    if not 1 <= len(posting.generator_identity) <= MAX_IDENTITY_CHARACTERS:
        raise InvalidInput(f"{where}: a generator identity has 1-{MAX_IDENTITY_CHARACTERS} characters")
    if isinstance(posting, NewPosting) and posting.generator_identity.startswith(DECIDER[0]):
        raise InvalidInput(f"{where}: a generator identity does not begin with {DECIDER[0]}, which the ledger keeps")
    if len(posting.entries) > MAX_ENTRIES:
        raise InvalidInput(f"{where}: {len(posting.entries)} entries are more than {MAX_ENTRIES}")
    if 0 in amounts or max(map(abs, amounts), default=0) > MAX_AMOUNT_MICROS:
        raise InvalidInput(f"{where}: an entry's amount is 1 to {MAX_AMOUNT_MICROS} either way; leave out zeros")
    if sum(amounts) != 0:
        raise InvalidInput(f"{where}: its entries do not sum to zero")
    try:
        _ = posting.evidence_json
    except ValueError as error:
        raise InvalidInput(f"{where}: its evidence holds a number that is not finite") from error


def now_utc() -> datetime:
    """The clock of `posted_at`."""
    return datetime.now(UTC)
