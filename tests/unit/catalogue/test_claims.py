"""Rights from claims: the same in any order, and always a whole."""

import random as standard_random

from hypothesis import given
from hypothesis import strategies as st

from gmvaluator.accounts import HELD, SUSPENSE
from gmvaluator.catalogue.claims import WHOLE_PPM, Claim, resolve_claims
from gmvaluator.testing.postings import sample_owner

ADA, BEN, CAI = (sample_owner(number) for number in range(3))

claims = st.lists(
    st.builds(
        Claim,
        st.sampled_from(["data_set:a", "data_set:b", "rights:c"]),
        st.integers(0, 4).map(sample_owner),
        st.integers(1, WHOLE_PPM),
    ),
    max_size=8,
)


def settled(*made: Claim) -> dict[str, int]:
    return {right.account: right.share_ppm for right in resolve_claims(made)}


@given(claims, st.randoms(use_true_random=False))
def test_rights_sum_to_the_whole_in_any_order(made: list[Claim], random: standard_random.Random) -> None:
    rights = resolve_claims(made)
    assert sum(right.share_ppm for right in rights) == WHOLE_PPM
    assert len({right.account for right in rights}) == len(rights)
    random.shuffle(made)
    assert resolve_claims(made) == rights


def test_one_claim_on_the_whole_pays_its_owner() -> None:
    assert settled(Claim("data_set:a", ADA, WHOLE_PPM)) == {f"owner:{ADA}": WHOLE_PPM}


def test_no_claim_goes_to_suspense() -> None:
    assert settled() == {SUSPENSE: WHOLE_PPM}


def test_claims_of_one_origin_share() -> None:
    shared = settled(Claim("rights:c", ADA, 250_000), Claim("rights:c", BEN, 750_000))
    assert shared == {f"owner:{ADA}": 250_000, f"owner:{BEN}": 750_000}


def test_an_unclaimed_part_goes_to_suspense() -> None:
    assert settled(Claim("rights:c", ADA, 400_000)) == {f"owner:{ADA}": 400_000, SUSPENSE: 600_000}


def test_competing_claims_are_held_never_last_wins() -> None:
    assert settled(Claim("data_set:a", ADA, WHOLE_PPM), Claim("data_set:b", BEN, WHOLE_PPM)) == {HELD: WHOLE_PPM}
    assert settled(Claim("data_set:a", ADA, WHOLE_PPM), Claim("data_set:a", BEN, WHOLE_PPM)) == {HELD: WHOLE_PPM}
    assert settled(Claim("data_set:a", ADA, WHOLE_PPM), Claim("data_set:b", BEN, 1)) == {HELD: WHOLE_PPM}


def test_origins_that_name_the_same_owner_agree() -> None:
    agreed = settled(Claim("data_set:a", ADA, WHOLE_PPM), Claim("data_set:b", ADA, WHOLE_PPM))
    assert agreed == {f"owner:{ADA}": WHOLE_PPM}


def test_origins_that_leave_room_for_each_other_are_both_paid() -> None:
    both = settled(Claim("data_set:a", ADA, 300_000), Claim("data_set:b", CAI, 700_000))
    assert both == {f"owner:{ADA}": 300_000, f"owner:{CAI}": 700_000}
