"""Recomputing a posting from its evidence alone: what an auditor does."""

from __future__ import annotations

from gmvaluator.ledger.answers import Replay
from gmvaluator.ledger.corrections.consequences import recomputed_decision
from gmvaluator.ledger.decisions import Decision
from gmvaluator.ledger.records import ATTRIBUTION, Entry, Evidence, StoredPosting
from gmvaluator.ledger.valued import recompute


def replay(posting: StoredPosting) -> Replay:
    """Value the posting's evidence again, by the policy parameters in it, and compare with its entries.

    A decision's entries follow from its facts instead.
    """
    entries = recomputed(posting.header.kind, posting.evidence_json)
    return Replay(entries, entries == posting.entries)


def recomputed(kind: str, evidence_json: bytes) -> tuple[Entry, ...]:
    """Entries that follow from a posting's evidence. Raises ValueError, KeyError or TypeError if it is none."""
    if kind == ATTRIBUTION:
        return recompute(Evidence.from_json(evidence_json))
    return recomputed_decision(Decision.from_json(evidence_json))
