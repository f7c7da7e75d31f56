"""The clock that the ledger judges: a wrong clock here costs no image."""

from datetime import UTC, datetime, timedelta

import pytest

from attributor.core.clock import LedgerClock
from gmvaluator.errors import GmvaluatorError, InvalidInput, PreconditionFailed, Unavailable

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


def clock(newest: datetime | None) -> LedgerClock:
    return LedgerClock(lambda: newest, lambda: NOW)


@pytest.mark.parametrize("newest", [None, NOW - 400 * DAY, NOW, NOW + 4 * MINUTE])
def test_a_clock_that_is_not_behind_the_ledger_is_used(newest: datetime | None) -> None:
    assert clock(newest).checked_now() == NOW
    for moment in (NOW - 300 * DAY, NOW, NOW + 4 * MINUTE):
        clock(newest).check(moment)


@pytest.mark.parametrize("newest", [NOW + 6 * MINUTE, NOW + 365 * DAY])
@pytest.mark.parametrize("moment", [NOW - DAY, NOW, NOW + 365 * DAY])
def test_a_clock_behind_the_ledger_is_no_fault_of_the_caller(newest: datetime, moment: datetime) -> None:
    with pytest.raises(Unavailable, match="NTP"):
        clock(newest).check(moment)


@pytest.mark.parametrize(
    ("newest", "ahead", "error"),
    [
        (NOW, timedelta(hours=1), PreconditionFailed),
        (NOW, 2 * DAY, InvalidInput),  # the ledger agrees with this clock
        (NOW - 2 * DAY, 2 * DAY, PreconditionFailed),  # either clock may be wrong
        (None, 365 * DAY, PreconditionFailed),
    ],
)
def test_a_time_ahead_is_refused_for_good_only_if_the_ledger_agrees(
    newest: datetime | None, ahead: timedelta, error: type[GmvaluatorError]
) -> None:
    with pytest.raises(error, match="generated_at"):
        clock(newest).check(NOW + ahead)


def test_the_ledger_is_not_read_for_every_image() -> None:
    reads: list[None] = []
    judged = LedgerClock(lambda: reads.append(None))
    for _ in range(100):
        judged.check(datetime.now(UTC))
    assert len(reads) < 10
