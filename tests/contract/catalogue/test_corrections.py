"""Corrected owners: what a manifest says now replaces what it said, from now on, and competing claims stay held."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from gmvaluator.catalogue.records import NewWork, OwnerReference
from gmvaluator.catalogue.schema import sources
from gmvaluator.catalogue.search import rights_as_dict
from gmvaluator.catalogue.store import Catalogue, open_catalogue
from gmvaluator.ids import sha256_hex, training_image_id
from gmvaluator.storage.database import DataLocation

SHA256 = sha256_hex(b"a work")
WORK = training_image_id(SHA256)
PAST = datetime(2026, 1, 1, tzinfo=UTC)


def row(owner: str, key: str = "a.png", data_set: str = "art") -> NewWork:
    reference = OwnerReference(owner, owner.title()) if owner else None
    return NewWork(WORK, SHA256, 8, 8, data_set, key, f"file:///{key}", owner=reference)


def index(place: DataLocation, *batches: Sequence[NewWork]) -> int:
    """Record batches in one run; return the number of claims that it corrected."""
    began = datetime.now(UTC)
    with open_catalogue(place, write=True) as catalogue:
        for batch in batches:
            catalogue.record(batch)
        return catalogue.corrections("art", began)


def paid(place: DataLocation, at: datetime | None = None) -> str:
    """Return who is paid for the work."""
    with open_catalogue(place) as catalogue:
        (card,) = catalogue.works([WORK], at or datetime.now(UTC)).values()
    (payee,) = card.beneficiaries
    return payee.display_name


HELD = "(held: claims compete)"


def test_a_corrected_owner_is_paid_from_now_on_and_the_history_is_kept(place: DataLocation) -> None:
    assert index(place, [row("ada")]) == 0
    assert index(place, [row("ben")]) == 1
    assert paid(place) == "Ben"
    assert paid(place, PAST) == "Ada"
    with open_catalogue(place) as catalogue:
        shown = rights_as_dict(catalogue, WORK, datetime.now(UTC))
    assert [(claim["display_name"], claim["origin"]) for claim in shown["former_claims"]] == [("Ada", "data_set:art")]
    assert index(place, [row("ben")], [row("ben")]) == 0
    assert index(place, [row("ada")]) == 1
    assert paid(place) == "Ada"
    assert index(place, [row("ben")]) == 1
    assert paid(place) == "Ben"


def test_another_data_set_and_another_record_still_compete(place: DataLocation) -> None:
    index(place, [row("ada")])
    index(place, [row("ben", data_set="posters")])
    assert paid(place) == HELD
    index(place, [row("ada", data_set="posters")])
    assert paid(place) == "Ada"
    index(place, [row("ben", key="copy.png")])
    assert paid(place) == HELD
    for _ in range(2):
        assert index(place, [row("ada"), row("ben", key="copy.png")]) == 0
        assert paid(place) == HELD


def test_record_with_another_url_is_another_record(place: DataLocation) -> None:
    """Two downloads count from 0: what the second says of its own address corrects nothing of the first."""
    first, second = (replace(row(owner), url=f"https://{owner}/a.png") for owner in ("ada", "ben"))
    index(place, [first])
    assert index(place, [second]) == 0
    assert paid(place) == HELD
    assert index(place, [replace(second, owner=first.owner)]) == 1
    assert paid(place) == "Ada"


@pytest.mark.parametrize("batches", [1, 2])
def test_two_rows_of_one_run_that_contradict_compete_and_stay_so(place: DataLocation, batches: int) -> None:
    rows = [row("ada"), row("ben")]
    for _ in range(3):
        assert index(place, *([rows] if batches == 1 else [[each] for each in rows])) == 0
        assert paid(place) == HELD


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("batches", [1, 2])
def test_both_records_of_an_image_may_be_corrected(place: DataLocation, order: int, batches: int) -> None:
    index(place, [row("ada"), row("ada", key="copy.png")])
    rows = [row("ben"), row("ben", key="copy.png")][::order]
    index(place, *([rows] if batches == 1 else [[each] for each in rows]))
    assert paid(place) == "Ben"
    assert paid(place, PAST) == "Ada"


def test_one_of_two_records_that_is_corrected_competes_with_the_other(place: DataLocation) -> None:
    index(place, [row("ada"), row("ada", key="copy.png")])
    index(place, [row("ben"), row("ada", key="copy.png")])
    assert paid(place) == HELD
    index(place, [row("ada"), row("ada", key="copy.png")])
    assert paid(place) == "Ada"


def test_an_owner_that_was_unknown_is_paid_from_the_beginning(place: DataLocation) -> None:
    index(place, [row("")])
    assert index(place, [row("ada")]) == 0
    assert paid(place, PAST) == "Ada"
    assert index(place, [row("")]) == 0
    assert paid(place) == "Ada"


def forget_what_records_named(place: DataLocation) -> None:
    """Make the catalogue one of an earlier version."""
    with open_catalogue(place, write=True) as catalogue, catalogue._writing() as connection:
        connection.execute(update(sources).values(owner_id=None))


def test_records_of_an_earlier_version_can_be_corrected(place: DataLocation) -> None:
    index(place, [row("ada")])
    forget_what_records_named(place)
    assert index(place, [row("ben")]) == 1
    assert (paid(place), paid(place, PAST)) == ("Ben", "Ada")


def test_competing_claims_of_an_earlier_version_stay_held(place: DataLocation) -> None:
    index(place, [row("ada"), row("ben", key="copy.png")])
    forget_what_records_named(place)
    for _ in range(2):
        assert index(place, [row("ada"), row("ben", key="copy.png")]) == 0
        assert paid(place) == HELD


def test_corrections_are_counted_since_a_time(place: DataLocation) -> None:
    index(place, [row("ada")])
    index(place, [row("ben")])
    with open_catalogue(place) as catalogue:
        assert _corrections(catalogue) == (1, 0, 0)


def _corrections(catalogue: Catalogue) -> tuple[int, int, int]:
    now = datetime.now(UTC)
    return (
        catalogue.corrections("art", now - timedelta(days=1)),
        catalogue.corrections("art", now),
        catalogue.corrections("posters", now - timedelta(days=1)),
    )
