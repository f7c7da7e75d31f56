"""Random histories against a ledger kept in a dictionary: same outcomes and sums, however the batches are cut."""

import tempfile
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gmvaluator.accounts import ISSUANCE
from gmvaluator.ledger.records import NewPosting
from gmvaluator.ledger.results import Outcome, Posted, Replayed
from gmvaluator.ledger.store import Ledger, open_ledger
from gmvaluator.testing.postings import sample_posting

events = st.lists(
    st.builds(
        sample_posting,
        st.integers(0, 12),
        identity=st.sampled_from(["local", "studio"]),
        model_version=st.sampled_from(["demo-1", "demo-1", "demo-1", "demo-2"]),
        contributors=st.integers(0, 8),
    ),
    max_size=25,
)
cuts = st.lists(st.integers(0, 25), max_size=5)


def oracle(history: list[NewPosting]) -> tuple[list[str], dict[str, int]]:
    """What must come of a history, in the plainest way."""
    first: dict[tuple[str, str], NewPosting] = {}
    answers: list[str] = []
    sums: dict[str, int] = {}
    for posting in history:
        before = first.get((posting.generator_identity, posting.generation_id))
        if before is None:
            first[posting.generator_identity, posting.generation_id] = posting
            answers.append("posted")
            for entry in posting.entries:
                sums[entry.account] = sums.get(entry.account, 0) + entry.amount_micros
        else:
            same = before.evidence.model_version == posting.evidence.model_version
            answers.append("replayed" if same else "refused")
    return answers, sums


def batches(history: list[NewPosting], places: list[int]) -> list[list[NewPosting]]:
    edges = sorted({0, len(history), *(min(place, len(history)) for place in places)})
    return [history[start:end] for start, end in pairwise(edges)]


def word(outcome: Outcome) -> str:
    return "posted" if isinstance(outcome, Posted) else "replayed" if isinstance(outcome, Replayed) else "refused"


def sums_of(ledger: Ledger) -> dict[str, int]:
    sums = {balance.account: balance.balance_micros for balance in ledger.balances(limit=1_000).balances}
    issued = ledger.totals().issued_micros
    return {**sums, ISSUANCE: -issued} if issued else sums


@settings(max_examples=60, deadline=None)
@given(events, cuts)
def test_any_history_in_any_batches_comes_out_as_the_oracle_says(history: list[NewPosting], places: list[int]) -> None:
    answers, sums = oracle(history)
    with tempfile.TemporaryDirectory() as folder, open_ledger(Path(folder), write=True) as ledger:
        outcomes = [word(outcome) for batch in batches(history, places) for outcome in ledger.post(batch)]
        assert outcomes == answers
        assert sums_of(ledger) == sums
        assert ledger.totals().reconciles
        assert ledger.verify().ok
