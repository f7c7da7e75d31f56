"""Building postings: sums, independence of order, rights and evidence."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmvaluator.accounts import ISSUANCE, UNATTRIBUTED
from gmvaluator.errors import InvalidValuation
from gmvaluator.ids import TrainingImageId, generation_id
from gmvaluator.ledger.allocation import ScoredCandidate, payments_of, rank
from gmvaluator.ledger.posting import ValuedImage, build_posting, recompute_entries
from gmvaluator.ledger.records import Evidence, ImageFacts, NewPosting
from gmvaluator.ports import WorkCard
from gmvaluator.testing.postings import SAMPLE_PROFILE, sample_card, sample_posting, sample_work
from gmvaluator.valuation.policy import Policy, load_policy

PAPER = load_policy("paper@1")

candidates = st.lists(
    st.tuples(st.integers(0, 500), st.integers(0, 2_000_000), st.integers(-1_000_000, 1_000_000)),
    max_size=70,
    unique_by=lambda candidate: candidate[0],
)
qualities = st.integers(0, 1_000_000)


def valued(quality: int) -> ValuedImage:
    return ValuedImage(
        generator_identity="local",
        generation_id=generation_id("one"),
        generated_at=datetime(2026, 1, 1, tzinfo=UTC),
        image=ImageFacts("ab" * 32, 640, 480, 12_345),
        model_version="demo-1",
        collection="works",
        profile=SAMPLE_PROFILE,
        quality_millionths=quality,
        timings_ms={"embed_ms": 1.5},
    )


def posting_of(numbers: list[tuple[int, int, int]], quality: int, policy: Policy = PAPER) -> NewPosting:
    scored = [ScoredCandidate(sample_work(number), distance, near) for number, distance, near in numbers]
    return build_posting(valued(quality), policy, scored, cards(numbers))


def cards(numbers: list[tuple[int, int, int]]) -> dict[TrainingImageId, WorkCard]:
    return {sample_work(number): sample_card(number) for number, _, _ in numbers}


@given(candidates, qualities)
def test_every_posting_sums_to_zero_and_pays_exactly_what_it_issues(
    numbers: list[tuple[int, int, int]], quality: int
) -> None:
    posting = posting_of(numbers, quality)
    paid = [entry for entry in posting.entries if entry.account != ISSUANCE]
    assert sum(entry.amount_micros for entry in posting.entries) == 0
    assert sum(entry.amount_micros for entry in paid) == posting.evidence.issued_micros == quality
    assert all(entry.amount_micros > 0 for entry in paid)
    assert len({(entry.account, entry.training_image_id) for entry in posting.entries}) == len(posting.entries)


@given(candidates, qualities, st.randoms(use_true_random=False))
def test_the_order_of_candidates_is_irrelevant(
    numbers: list[tuple[int, int, int]], quality: int, random: object
) -> None:
    shuffled = list(numbers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert posting_of(shuffled, quality) == posting_of(numbers, quality)


@given(candidates, qualities)
def test_evidence_keeps_each_contributor_in_rank_order_with_payments_that_sum(
    numbers: list[tuple[int, int, int]], quality: int
) -> None:
    evidence = posting_of(numbers, quality).evidence
    assert [contribution.rank for contribution in evidence.contributions] == list(
        range(1, len(evidence.contributions) + 1)
    )
    distances = [contribution.distance_millionths for contribution in evidence.contributions]
    distances += [miss.distance_millionths for miss in evidence.near_misses]
    assert distances == sorted(distances)
    for contribution in evidence.contributions:
        assert sum(payment.credit_micros for payment in contribution.payments) == contribution.credit_micros
        assert sum(payment.share_ppm for payment in contribution.payments) == 1_000_000


@given(candidates, qualities)
def test_evidence_survives_json_and_gives_the_same_entries_again(
    numbers: list[tuple[int, int, int]], quality: int
) -> None:
    posting = posting_of(numbers, quality)
    read = Evidence.from_json(posting.evidence_json)
    assert read == posting.evidence
    assert read.to_json() == posting.evidence_json
    assert recompute_entries(read) == posting.entries


@given(st.integers(0, 10**9), st.lists(st.integers(1, 1_000_000), min_size=1, max_size=6), st.randoms())
def test_a_credit_is_divided_among_owners_to_the_last_micro(credit: int, weights: list[int], random: object) -> None:
    shares = [weight * 1_000_000 // sum(weights) for weight in weights]
    shares[0] += 1_000_000 - sum(shares)
    rights = [(f"owner:{place}", share) for place, share in enumerate(shares)]
    payments = payments_of(credit, rights)
    assert sum(payment.credit_micros for payment in payments) == credit
    for payment in payments:
        assert 0 <= payment.credit_micros <= credit * payment.share_ppm // 1_000_000 + 1
    random.shuffle(rights)  # type: ignore[attr-defined]
    assert payments_of(credit, rights) == payments


def test_the_policy_cuts_at_k_and_keeps_ten_near_misses() -> None:
    numbers = [(number, 1_000 * number, 0) for number in range(70)]
    evidence = posting_of(numbers, 1_000_000).evidence
    assert len(evidence.contributions) == PAPER.k == 50
    assert [miss.rank for miss in evidence.near_misses] == list(range(51, 61))
    assert evidence.near_misses[0].training_image_id == sample_work(50)


def test_equal_distances_are_ranked_by_id() -> None:
    scored = [ScoredCandidate(sample_work(number), 5, 0) for number in range(10)]
    first, rest = rank(scored, replace(PAPER, k=4))
    assert [str(group.name) for group in first + rest] == sorted(str(sample_work(n)) for n in range(10))


def test_without_candidates_all_is_unattributed() -> None:
    posting = posting_of([], 750_000)
    assert [(entry.account, entry.amount_micros) for entry in posting.entries] == [
        (ISSUANCE, -750_000),
        (UNATTRIBUTED, 750_000),
    ]
    assert posting.evidence.unattributed_share == 1.0


def test_a_worthless_image_has_evidence_but_no_entries() -> None:
    posting = posting_of([(1, 0, 0), (2, 0, 0)], 0)
    assert posting.entries == ()
    assert [contribution.credit_micros for contribution in posting.evidence.contributions] == [0, 0]


def test_rights_that_were_not_looked_up_or_do_not_sum_are_refused() -> None:
    with pytest.raises(InvalidValuation, match="not looked up"):
        build_posting(valued(5), PAPER, [ScoredCandidate(sample_work(1), 0, 0)], {})
    with pytest.raises(InvalidValuation, match="999999 ppm"):
        payments_of(10, [("owner:a", 999_999)])


def test_a_candidate_that_repeats_is_refused() -> None:
    with pytest.raises(InvalidValuation):
        posting_of([(1, 5, 0), (1, 6, 0)], 5)


def test_times_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InvalidValuation, match="finite"):
        build_posting(replace(valued(5), timings_ms={"embed_ms": float("nan")}), PAPER, [], {})


def test_evidence_names_no_person() -> None:
    card = sample_card(0)
    named = replace(card, title="a title", beneficiaries=(replace(card.beneficiaries[0], display_name="Ada L."),))
    posting = build_posting(valued(5), PAPER, [ScoredCandidate(sample_work(0), 0, 0)], {sample_work(0): named})
    assert b"Ada" not in posting.evidence_json
    assert b"a title" not in posting.evidence_json


def test_evidence_of_an_unknown_format_is_refused() -> None:
    later = sample_posting(1).evidence_json.replace(b'"format":1', b'"format":2')
    with pytest.raises(ValueError, match="upgrade"):
        Evidence.from_json(later)
