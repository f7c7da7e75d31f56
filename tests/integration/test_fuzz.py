"""The first cases of `make fuzz`."""

import pytest

from tests.fuzz.mutations import case
from tests.fuzz.targets import TARGETS, seeds

CASES = 1_500


@pytest.mark.parametrize("target", TARGETS)
def test_the_first_cases_find_nothing(target: str) -> None:
    for number in range(CASES):
        TARGETS[target](case(seeds(target), number))


def test_a_number_always_makes_the_same_case() -> None:
    assert case(seeds("request"), 7) == case(seeds("request"), 7)
    assert len({case(seeds("decode"), number) for number in range(100)}) > 90
