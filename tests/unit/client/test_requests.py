"""Requests of the clients: a time needs its zone, before anything is stored or sent."""

from datetime import UTC, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any

import pytest

from gmvaluator.client.outbox import Outbox
from gmvaluator.client.requests import attribute_request
from gmvaluator.errors import InvalidInput
from gmvaluator.storage.schema import utc_text


class WithoutOffset(tzinfo):
    """A time zone that knows no offset, with which a time is as good as without a zone."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> str:
        return "nowhere"


NAIVE: list[Any] = [datetime(2026, 10, 31, 23, 30), datetime(2026, 10, 31, 23, 30, tzinfo=WithoutOffset())]  # noqa: DTZ001
REFUSED = [*NAIVE, datetime(2026, 10, 31).date(), "2026-10-31T23:30:00"]  # noqa: DTZ001


@pytest.mark.parametrize("moment", REFUSED)
def test_a_time_without_a_zone_is_refused(moment: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no time zone: give"):
        attribute_request(b"image", "g-1", "demo-1", moment)
    with Outbox(tmp_path, "127.0.0.1:1") as outbox:
        with pytest.raises(InvalidInput, match="has no time zone: give"):
            outbox.submit(b"image", "g-1", "demo-1", moment)
        assert outbox.waiting == 0


@pytest.mark.parametrize("moment", NAIVE)
def test_no_such_time_is_stored(moment: datetime) -> None:
    with pytest.raises(InvalidInput, match="has no time zone"):
        utc_text(moment)


def test_a_time_with_a_zone_is_sent_as_the_instant_that_it_is() -> None:
    pacific = datetime(2026, 10, 31, 17, 30, tzinfo=timezone(timedelta(hours=-7)))
    sent = attribute_request(b"image", "g-1", "demo-1", pacific).generated_at
    assert sent.ToDatetime(tzinfo=UTC) == datetime(2026, 11, 1, 0, 30, tzinfo=UTC)
    assert not attribute_request(b"image", "g-1", "demo-1", None).HasField("generated_at")
