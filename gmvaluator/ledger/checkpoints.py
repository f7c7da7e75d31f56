"""Checkpoints: signed statements of the posting that closed each period, stored in the ledger and handed out.

A hash chain alone does not stop somebody who can write the database from replacing the whole chain. A signature made
with a key outside the database does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, insert, select

from gmvaluator.auth.signing import Signed, Signer
from gmvaluator.errors import NotFound
from gmvaluator.ledger.decision import CLOSE
from gmvaluator.ledger.hash_chain import canonical_json
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ledger.results import Problem
from gmvaluator.ledger.schema import checkpoints, decisions, postings

CHECKPOINT_FORMAT = 1


def checkpoint_of(closing: StoredPosting, period: str, signer: Signer) -> Signed:
    """Return a signed statement that the period closed with this posting, and so with everything before it."""
    return signer.sign(
        canonical_json(
            {
                "format": CHECKPOINT_FORMAT,
                "what": "gmvaluator ledger checkpoint",
                "period": period,
                "sequence": closing.sequence,
                "hash": closing.hash,
                "closed_at": closing.header.generated_at,
            }
        )
    )


def store_checkpoint(connection: Connection, period: str, sequence: int, signed: Signed) -> Signed:
    """Store a closed period's checkpoint unless it has one, and return the stored one."""
    stored = connection.execute(select(checkpoints.c.sequence).where(checkpoints.c.period == period)).first()
    if stored is None:
        row = {"period": period, "sequence": sequence, "statement": signed.statement}
        connection.execute(insert(checkpoints), {**row, "signature": signed.signature, "public_key": signed.public_key})
    return read_checkpoint(connection, period)


def read_checkpoint(connection: Connection, period: str) -> Signed:
    """Return the checkpoint of a closed period. Raises NotFound."""
    row = connection.execute(select(checkpoints).where(checkpoints.c.period == period)).one_or_none()
    if row is None:
        raise NotFound(f"period {period} has no checkpoint: close it by `gmvaluator ledger close {period}`")
    return Signed(bytes(row.statement), row.signature, row.public_key)


def checkpoint_problems(
    connection: Connection, public_key: str | None = None, kept: Sequence[Signed] = ()
) -> Iterator[Problem]:
    """Yield each disagreement between closings and checkpoints, and each wrong signature.

    public_key: the operator's, as handed out; without it each checkpoint is checked against its own key only. kept:
    checkpoints that were handed out before; the ledger must still hold the postings that they name.
    """
    closings = select(decisions.c.period, postings.c.sequence, postings.c.hash)
    closings = closings.join(postings, postings.c.sequence == decisions.c.sequence).where(decisions.c.kind == CLOSE)
    closed = {row.period: (row.sequence, row.hash) for row in connection.execute(closings)}
    stored = {row.period: row for row in connection.execute(select(checkpoints))}
    for period, (sequence, posting_hash) in sorted(closed.items()):
        row = stored.get(period)
        if row is None:
            yield Problem(sequence, None, f"period {period} has no checkpoint: close it once more, which signs it")
            continue
        signed = Signed(bytes(row.statement), row.signature, row.public_key)
        yield from _stored_problems(signed, public_key, period, sequence, posting_hash)
        if row.sequence != sequence:
            yield Problem(sequence, None, f"checkpoint of {period} has the sequence {row.sequence}: it was changed")
    for period in sorted(stored.keys() - closed.keys()):
        yield Problem(stored[period].sequence, None, f"checkpoint of {period} has no closing: it was inserted")
    for signed in kept:
        yield from _kept_problems(connection, signed, public_key)


def _stored_problems(
    signed: Signed, public_key: str | None, period: str, sequence: int, posting_hash: str
) -> Iterator[Problem]:
    if not signed.genuine(public_key):
        yield Problem(sequence, None, f"checkpoint of {period} is not signed by the operator's key")
    elif _named_posting(signed) != (period, sequence, posting_hash):
        yield Problem(sequence, None, f"checkpoint of {period} names another posting: history was rewritten")


def _kept_problems(connection: Connection, signed: Signed, public_key: str | None) -> Iterator[Problem]:
    period, stated_sequence, posting_hash = _named_posting(signed)
    # The fields of a forged checkpoint may hold any value.
    sequence = stated_sequence if isinstance(stated_sequence, int) else 0
    if not signed.genuine(public_key):
        yield Problem(sequence, None, f"the checkpoint given for {period} is not signed by the operator's key")
        return
    stored_hash = connection.execute(select(postings.c.hash).where(postings.c.sequence == sequence)).scalar()
    if stored_hash != posting_hash:
        yield Problem(sequence, None, f"the checkpoint given for {period} names another posting: history was rewritten")


def _named_posting(signed: Signed) -> tuple[object, object, object]:
    """Return the period, sequence and hash that a checkpoint states; None for each if it cannot be read."""
    try:
        value = signed.value
    except ValueError:
        return None, None, None
    return value.get("period"), value.get("sequence"), value.get("hash")
