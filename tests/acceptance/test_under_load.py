"""Short versions of `make crash`, `make soak` and `make bench`: the same code, fewer times."""

from pathlib import Path

from evaluation.bench.serving.hostile import hostile
from evaluation.bench.serving.sections import leaving, overload
from evaluation.bench.serving.setup import Lags, jpegs, stub_data
from evaluation.bench.serving.soak import run_soak
from tests.crash.serving import run_ended


def test_an_attributor_killed_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    found = run_ended(tmp_path, "kill", 3, seed=3)
    assert (found["kill_lost"], found["kill_doubled"], found["kill_not_sent_again"]) == (0, 0, 0)
    assert found["kill_sums_equal"]
    assert found["kill_verify_ok"]
    assert found["kill_answered"] > 0
    assert found["kill_unexpected_errors"] == []


def test_an_attributor_terminated_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    found = run_ended(tmp_path, "drain", 3, seed=4)
    assert (found["drain_lost"], found["drain_doubled"], found["drain_exit_codes_wrong"]) == (0, 0, 0)
    assert found["drain_sums_equal"]
    assert found["drain_verify_ok"]
    assert found["drain_answered"] > 0


def test_many_requests_leave_nothing_behind() -> None:
    found = run_soak(requests=300, points=1_000, seed=5)
    assert set(found["soak_statuses"]) <= {"OK", "cancelled", "bad INVALID_ARGUMENT"}
    assert sum(found["soak_statuses"].values()) == 300
    assert found["soak_descriptors_grown"] <= 16  # pools of connections are filled as they are needed
    assert found["soak_tasks_grown"] <= 0


def test_callers_who_leave_leave_each_image_whole_or_absent_and_the_models_idle(tmp_path: Path) -> None:
    found = leaving(stub_data(tmp_path, 1_000), jpegs(tmp_path), Lags(), calls=100)
    assert found["left_torn"] == 0
    assert found["left_whole"] + found["left_absent"] == 200
    # One is under way; on a busy machine another begins before the news of who has left arrives. Four would be all.
    assert found["work_after_cancel_batches"] <= 2


def test_more_than_it_can_carry_is_refused_and_nothing_else_fails(tmp_path: Path) -> None:
    lags = Lags()
    found = overload(stub_data(tmp_path, 1_000), jpegs(tmp_path), lags, count=100, seconds=6)
    assert found["overload_other_errors"] == 0
    assert found["overload_goodput_ratio"] > 0
    assert lags.figures()["loop_lag_max_ms"] > 0


def test_hostile_requests_are_refused_and_good_ones_between_them_are_not(tmp_path: Path) -> None:
    found = hostile(stub_data(tmp_path, 1_000), jpegs(tmp_path), Lags(), times=1)
    assert found["hostile_not_refused"] == 0
    assert found["hostile_refusal_p99_ms"] > 0
