"""Several people who decide at random at the same time: reports, payouts and closings are those of an oracle."""

import pytest

from gmvaluator.storage.database import DataLocation
from tests.crash.decisions import check_decisions


@pytest.mark.parametrize("seed", [1, 2])
def test_people_who_decide_at_the_same_time_agree_with_the_oracle(place: DataLocation, seed: int) -> None:
    assert check_decisions(place, seed, commands=25) == []
