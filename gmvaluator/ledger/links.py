"""Checking the table of decisions: each row says what its posting's evidence says, and no row is missing or extra."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from sqlalchemy import Connection, select

from gmvaluator.ledger.answers import Problem
from gmvaluator.ledger.decisions import Decision, Links
from gmvaluator.ledger.records import ATTRIBUTION
from gmvaluator.ledger.schema import decisions, evidence, postings

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
