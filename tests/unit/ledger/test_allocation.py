"""Near-copies are one contributor: what they earn together, who of them is paid, and that a replay finds the same."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmvaluator.accounts import ISSUANCE
from gmvaluator.ids import TrainingImageId, generation_id
from gmvaluator.ledger.allocation import ScoredCandidate
from gmvaluator.ledger.decisions.revaluation import revalue
from gmvaluator.ledger.posting import ValuedImage, build_posting, recompute_entries
from gmvaluator.ledger.records import Evidence, ImageFacts, NewPosting
from gmvaluator.ports import Beneficiary, WorkCard
from gmvaluator.testing.postings import SAMPLE_PROFILE, sample_card, sample_owner, sample_work
from gmvaluator.valuation.policy import Policy, load_policy

PAPER = load_policy("paper@1")
GROUPED = replace(PAPER, name="grouped", k=3, temperature=Decimal("0.05"), groups="nearest")
UNSURE = Policy.from_parameters(
    {
        **GROUPED.parameters(),
        "uncertainty": {
            "replicates": [{"temperature": "0.02"}, {"temperature": "0.05"}, {"temperature": "0.4"}],
            "hold_above": "0.2",
        },
    }
)
A, B, C = (f"owner:{sample_owner(number)}" for number in range(3))


def card(number: int, account: str, claim: int | None) -> WorkCard:
    return WorkCard(sample_work(number), f"work-{number}", "", (Beneficiary(account, None, account, 1_000_000),), claim)


def near(number: int, distance: int, group: int | None = None) -> ScoredCandidate:
    return ScoredCandidate(sample_work(number), distance, 0, None if group is None else sample_work(group))


def posted(
    candidates: Sequence[ScoredCandidate], cards: Sequence[WorkCard], policy: Policy = GROUPED, quality: int = 1_000_000
) -> NewPosting:
    valued = ValuedImage(
        generator_identity="local",
        generation_id=generation_id("one"),
        generated_at=datetime(2026, 1, 1, tzinfo=UTC),
        image=ImageFacts("ab" * 32, 640, 480, 12_345),
        model_version="demo-1",
        collection="works",
        profile=SAMPLE_PROFILE,
        quality_millionths=quality,
    )
    return build_posting(valued, policy, candidates, {one.training_image_id: one for one in cards})


def credit(posting: NewPosting) -> dict[str, int]:
    sums = posting.sums
    return {account: amount for account, amount in sums.items() if account != ISSUANCE}


def by_work(posting: NewPosting) -> dict[TrainingImageId, int]:
    return {one.training_image_id: one.credit_micros for one in posting.evidence.contributions}


def test_copies_by_the_owner_earn_nothing_extra() -> None:
    alone = posted([near(1, 100_000), near(2, 150_000)], [card(1, A, 1), card(2, B, 2)])
    copies = [near(number, 100_000 + number, 1) for number in range(10, 35)]
    copied = posted(
        [near(1, 100_000, 1), *copies, near(2, 150_000)],
        [card(1, A, 1), card(2, B, 2), *(card(number, A, number) for number in range(10, 35))],
    )
    assert credit(copied) == credit(alone)
    assert len({one.rank for one in copied.evidence.contributions}) == 2
    assert credit(posted([near(1, 100_000), *copies, near(2, 150_000)], [card(1, A, 1), card(2, B, 2), *(
        card(number, A, number) for number in range(10, 35))], PAPER))[A] > 900_000  # fmt: skip


def test_within_one_owner_the_nearer_copy_earns_more() -> None:
    found = by_work(posted([near(1, 100_000, 1), near(2, 150_000, 1)], [card(1, A, 1), card(2, A, 2)]))
    assert found[sample_work(1)] == pytest.approx(found[sample_work(2)] * 2.718, rel=0.001)


def test_among_owners_the_earliest_claim_is_paid_and_the_others_compete() -> None:
    posting = posted(
        [near(1, 100_000, 2), near(2, 150_000, 2), near(3, 120_000, 2)], [card(1, B, 9), card(2, A, 4), card(3, C, 7)]
    )
    assert credit(posting) == {A: 1_000_000}
    competing = {one.training_image_id: one.competing for one in posting.evidence.contributions}
    assert competing == {sample_work(1): True, sample_work(2): False, sample_work(3): True}
    assert {one.group for one in posting.evidence.contributions} == {sample_work(2)}


def test_a_disputed_first_claim_is_held_and_a_later_copy_does_not_profit() -> None:
    posting = posted([near(1, 100_000, 1), near(2, 100_000, 1)], [card(1, "held", 1), card(2, B, 2)])
    assert by_work(posting) == {sample_work(1): 1_000_000, sample_work(2): 0}
    assert credit(posting) == {"held": 1_000_000}


def test_works_that_nobody_claims_wait_until_somebody_does() -> None:
    cards = [card(1, "suspense", None), card(2, "suspense", None)]
    assert by_work(posted([near(1, 9, 2), near(2, 8, 2)], cards)) == {sample_work(1): 0, sample_work(2): 1_000_000}
    assert credit(posted([near(1, 9, 2), near(2, 8, 2)], [cards[0], card(2, B, 5)])) == {B: 1_000_000}


def test_groups_are_formed_before_the_cut_at_k() -> None:
    candidates = [near(number, 100_000, 1) for number in (1, 2, 3, 4)] + [near(5, 200_000), near(6, 300_000)]
    posting = posted([*candidates, near(7, 400_000)], [card(number, A, number) for number in range(1, 7)])
    assert [one.rank for one in posting.evidence.contributions] == [1, 1, 1, 1, 2, 3]
    assert [miss.training_image_id for miss in posting.evidence.near_misses] == [sample_work(7)]


def test_a_policy_may_go_by_the_first_of_a_group() -> None:
    candidates = [near(1, 300_000, 1), near(2, 100_000, 1), near(3, 200_000)]
    cards = [card(1, A, 1), card(2, A, 2), card(3, B, 3)]
    nearest, first = posted(candidates, cards), posted(candidates, cards, replace(GROUPED, groups="first"))
    assert credit(nearest)[A] > 800_000 > 200_000 > credit(first)[A]


def test_the_papers_policy_knows_no_groups() -> None:
    candidates, cards = [near(1, 100_000, 1), near(2, 100_000, 1)], [card(1, A, 1), card(2, B, 2)]
    posting = posted(candidates, cards, PAPER)
    assert credit(posting) == {A: 500_000, B: 500_000}
    assert b"group" not in posting.evidence_json
    assert b"competing" not in posting.evidence_json


def test_what_is_too_unsure_is_held_for_those_who_have_the_rights() -> None:
    candidates, cards = [near(1, 100_000), near(2, 130_000)], [card(1, A, 1), card(2, B, 2)]
    posting = posted(candidates, cards, UNSURE)
    assert credit(posting) == {"held": 1_000_000}
    assert [one.rights for one in posting.evidence.contributions] == [((A, 1_000_000),), ((B, 1_000_000),)]
    sure = posted([near(1, 10_000), near(2, 1_900_000)], cards, UNSURE)
    assert credit(sure)[A] > 990_000


candidates = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 800_000), st.integers(0, 12)),
    max_size=40,
    unique_by=lambda one: one[0],
)


@pytest.mark.parametrize("policy", [GROUPED, replace(GROUPED, groups="first"), UNSURE])
@given(candidates, st.integers(0, 1_000_000), st.randoms(use_true_random=False))
def test_evidence_alone_gives_the_same_entries(
    policy: Policy, numbers: list[tuple[int, int, int]], quality: int, random: object
) -> None:
    scored = [near(number, distance, group) for number, distance, group in numbers]
    cards = [
        replace(sample_card(number), claim_number=None if number % 11 == 2 else 70 - number) for number, _, _ in numbers
    ]
    posting = posted(scored, cards, policy, quality)
    stored = Evidence.from_json(posting.evidence_json)
    assert stored == posting.evidence
    assert recompute_entries(stored) == posting.entries
    assert sum(entry.amount_micros for entry in posting.entries) == 0
    assert sum(one.credit_micros for one in stored.contributions) + stored.unattributed_micros == stored.issued_micros
    random.shuffle(scored)  # type: ignore[attr-defined]
    assert posted(scored, cards, policy, quality) == posting


def test_another_policy_values_the_same_groups_again() -> None:
    candidates = [near(1, 100_000, 1), near(2, 110_000, 1), near(3, 150_000)]
    cards = [card(1, A, 1), card(2, B, 2), card(3, C, 3)]
    evidence = posted(candidates, cards).evidence
    again = revalue(evidence, replace(GROUPED, temperature=Decimal("0.5")), {})
    assert {entry.account for entry in recompute_entries(again.evidence) if entry.amount_micros > 0} == {A, C}
    plain = revalue(evidence, PAPER, {})
    assert {entry.account for entry in recompute_entries(plain.evidence) if entry.amount_micros > 0} == {A, B, C}
