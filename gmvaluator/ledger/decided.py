"""`ledger explain` of a decision: what was decided, why, and what it moved."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from sqlalchemy import Connection, select

from gmvaluator.credits import credits_text
from gmvaluator.ledger.decisions import Decision
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ledger.replay import replay
from gmvaluator.ledger.rows import load, postings_where
from gmvaluator.ledger.schema import decisions, postings
from gmvaluator.ledger.summary import plain_console, printable


def decisions_about(connection: Connection, sequence: int) -> list[StoredPosting]:
    """Decisions that moved amounts of a posting, in order."""
    of_it = select(decisions.c.sequence).where(decisions.c.about_sequence == sequence)
    return load(connection, postings_where(postings.c.sequence.in_(of_it)).order_by(postings.c.sequence))


def decision_explanation(posting: StoredPosting) -> dict[str, Any]:
    """A decision's posting as plain data: header, reason, links, facts and entries."""
    decision = Decision.from_json(posting.evidence_json)
    return {
        **posting.header.as_dict(),
        "hash": posting.hash,
        "replay_equal": replay(posting).equal,
        "reason": decision.reason,
        **decision.links.as_dict(),
        "facts": dict(decision.facts),
        "entries": [
            {
                "account": entry.account,
                "training_image_id": None if entry.training_image_id is None else str(entry.training_image_id),
                "amount_micros": entry.amount_micros,
            }
            for entry in posting.entries
        ],
    }


def print_decision(found: dict[str, Any]) -> None:
    """For people: the decision, then what it moved."""
    console = plain_console()
    links = [f"{name.replace('_', ' ')} {found[name]}" for name in ("about_sequence", "dispute_id", "period")]
    shown = [text for text in links if not text.endswith(" None")]
    console.print(f"Posting {found['sequence']}: {found['kind']} {found['generation_id']}", soft_wrap=True)
    console.print(f"decided {found['generated_at']}; {', '.join(shown) or 'linked to nothing'}", soft_wrap=True)
    console.print(f"reason: {printable(found['reason'])}", soft_wrap=True)
    table = Table("account", "work", "moved")
    table.columns[2].justify = "right"
    for entry in found["entries"]:
        amount = credits_text(entry["amount_micros"])
        table.add_row(printable(entry["account"]), entry["training_image_id"] or "", amount)
    if found["entries"]:
        console.print(table)
    same = "gives the same amounts" if found["replay_equal"] else "GIVES OTHER AMOUNTS: run `gmvaluator ledger verify`"
    console.print(f"Computing it again from this evidence {same}.", soft_wrap=True)
