"""Allocation among near-duplicates: what a group earns, which members are paid, and recomputation from evidence."""

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
from gmvaluator.testing.postings import PARTS_POLICY, SAMPLE_PROFILE, sample_card, sample_owner, sample_work
from gmvaluator.valuation.parts import WHOLE, Sighting
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
    candidates: Sequence[ScoredCandidate],
    cards: Sequence[WorkCard],
    policy: Policy = GROUPED,
    quality: int = 1_000_000,
    content: int | None = None,
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
        content=content,
    )
    return build_posting(valued, policy, candidates, {card.training_image_id: card for card in cards})


def credits_by_account(posting: NewPosting) -> dict[str, int]:
    return {account: amount for account, amount in posting.sums.items() if account != ISSUANCE}


def by_work(posting: NewPosting) -> dict[TrainingImageId, int]:
    return {
        contribution.training_image_id: contribution.credit_micros for contribution in posting.evidence.contributions
    }


def test_near_duplicates_of_one_owner_earn_nothing_extra() -> None:
    alone = posted([near(1, 100_000), near(2, 150_000)], [card(1, A, 1), card(2, B, 2)])
    copies = [near(number, 100_000 + number, 1) for number in range(10, 35)]
    copied = posted(
        [near(1, 100_000, 1), *copies, near(2, 150_000)],
        [card(1, A, 1), card(2, B, 2), *(card(number, A, number) for number in range(10, 35))],
    )
    assert credits_by_account(copied) == credits_by_account(alone)
    assert len({contribution.rank for contribution in copied.evidence.contributions}) == 2
    assert credits_by_account(posted([near(1, 100_000), *copies, near(2, 150_000)], [card(1, A, 1), card(2, B, 2), *(
        card(number, A, number) for number in range(10, 35))], PAPER))[A] > 900_000  # fmt: skip


def test_nearer_member_of_one_owner_earns_more() -> None:
    earned = by_work(posted([near(1, 100_000, 1), near(2, 150_000, 1)], [card(1, A, 1), card(2, A, 2)]))
    assert earned[sample_work(1)] == pytest.approx(earned[sample_work(2)] * 2.718, rel=0.001)


def test_the_member_that_is_seen_in_the_image_earns_the_group_s_credit() -> None:
    """The nearest as a whole is another drawing of the series, of which no detail was found."""
    settings = {**PARTS_POLICY.parameters(), "parts": {**PARTS_POLICY.parameters()["parts"], "members": {"slope": "6"}}}
    left = 0x00FF * (WHOLE // 0xFFFF)
    unseen = replace(near(1, 700_000, 1), sighting=Sighting(left, 300_000))
    seen = replace(near(2, 750_000, 1), sighting=Sighting(left, 200_000, left, 60))
    posting = posted([unseen, seen], [card(1, A, 1), card(2, A, 2)], Policy.from_parameters(settings), content=WHOLE)
    earned = by_work(posting)
    assert earned[sample_work(2)] > 490_000 > 10_000 > earned[sample_work(1)]
    assert recompute_entries(Evidence.from_json(posting.evidence_json)) == posting.entries


def test_earliest_claim_is_paid_and_other_owners_compete() -> None:
    posting = posted(
        [near(1, 100_000, 2), near(2, 150_000, 2), near(3, 120_000, 2)], [card(1, B, 9), card(2, A, 4), card(3, C, 7)]
    )
    assert credits_by_account(posting) == {A: 1_000_000}
    competing = {
        contribution.training_image_id: contribution.competing for contribution in posting.evidence.contributions
    }
    assert competing == {sample_work(1): True, sample_work(2): False, sample_work(3): True}
    assert {contribution.group for contribution in posting.evidence.contributions} == {sample_work(2)}


def test_disputed_earliest_claim_is_held_and_later_claims_do_not_profit() -> None:
    posting = posted([near(1, 100_000, 1), near(2, 100_000, 1)], [card(1, "held", 1), card(2, B, 2)])
    assert by_work(posting) == {sample_work(1): 1_000_000, sample_work(2): 0}
    assert credits_by_account(posting) == {"held": 1_000_000}


def test_unclaimed_group_is_paid_into_suspense_until_a_member_is_claimed() -> None:
    cards = [card(1, "suspense", None), card(2, "suspense", None)]
    assert by_work(posted([near(1, 9, 2), near(2, 8, 2)], cards)) == {sample_work(1): 0, sample_work(2): 1_000_000}
    assert credits_by_account(posted([near(1, 9, 2), near(2, 8, 2)], [cards[0], card(2, B, 5)])) == {B: 1_000_000}


def test_groups_are_formed_before_the_cut_at_k() -> None:
    candidates = [near(number, 100_000, 1) for number in (1, 2, 3, 4)] + [near(5, 200_000), near(6, 300_000)]
    posting = posted([*candidates, near(7, 400_000)], [card(number, A, number) for number in range(1, 7)])
    assert [contribution.rank for contribution in posting.evidence.contributions] == [1, 1, 1, 1, 2, 3]
    assert [miss.training_image_id for miss in posting.evidence.near_misses] == [sample_work(7)]


def test_policy_may_weigh_a_group_by_its_first_member() -> None:
    candidates = [near(1, 300_000, 1), near(2, 100_000, 1), near(3, 200_000)]
    cards = [card(1, A, 1), card(2, A, 2), card(3, B, 3)]
    nearest, first = posted(candidates, cards), posted(candidates, cards, replace(GROUPED, groups="first"))
    assert credits_by_account(nearest)[A] > 800_000 > 200_000 > credits_by_account(first)[A]


def test_paper_policy_has_no_groups() -> None:
    candidates, cards = [near(1, 100_000, 1), near(2, 100_000, 1)], [card(1, A, 1), card(2, B, 2)]
    posting = posted(candidates, cards, PAPER)
    assert credits_by_account(posting) == {A: 500_000, B: 500_000}
    assert b"group" not in posting.evidence_json
    assert b"competing" not in posting.evidence_json


def test_uncertain_credit_is_held_for_the_rights_holders() -> None:
    candidates, cards = [near(1, 100_000), near(2, 130_000)], [card(1, A, 1), card(2, B, 2)]
    posting = posted(candidates, cards, UNSURE)
    assert credits_by_account(posting) == {"held": 1_000_000}
    assert [contribution.rights for contribution in posting.evidence.contributions] == [
        ((A, 1_000_000),),
        ((B, 1_000_000),),
    ]
    sure = posted([near(1, 10_000), near(2, 1_900_000)], cards, UNSURE)
    assert credits_by_account(sure)[A] > 990_000


candidates = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 800_000), st.integers(0, 12)),
    max_size=40,
    unique_by=lambda candidate: candidate[0],
)


@pytest.mark.parametrize("policy", [GROUPED, replace(GROUPED, groups="first"), UNSURE])
@given(candidates, st.integers(0, 1_000_000), st.randoms(use_true_random=False))
def test_entries_are_recomputed_from_evidence_alone(
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
    assert (
        sum(contribution.credit_micros for contribution in stored.contributions) + stored.unattributed_micros
        == stored.issued_micros
    )
    random.shuffle(scored)  # type: ignore[attr-defined]
    assert posted(scored, cards, policy, quality) == posting


def test_revaluation_by_another_policy_keeps_the_groups() -> None:
    candidates = [near(1, 100_000, 1), near(2, 110_000, 1), near(3, 150_000)]
    cards = [card(1, A, 1), card(2, B, 2), card(3, C, 3)]
    evidence = posted(candidates, cards).evidence
    again = revalue(evidence, replace(GROUPED, temperature=Decimal("0.5")), {})
    assert {entry.account for entry in recompute_entries(again.evidence) if entry.amount_micros > 0} == {A, C}
    plain = revalue(evidence, PAPER, {})
    assert {entry.account for entry in recompute_entries(plain.evidence) if entry.amount_micros > 0} == {A, B, C}
