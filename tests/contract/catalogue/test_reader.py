"""Contract of `ports.RightsReader`, for the catalogue and the fake."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from gmvaluator.catalogue.records import NewWork, OwnerReference
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.errors import UnknownGenerator
from gmvaluator.ids import TrainingImageId, sha256_hex, training_image_id
from gmvaluator.ports import Generator, RightsReader
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import FakeRights, sample_owner

GENERATOR = Generator("demo-1", "works", ("paintings",), "paper@1")
NOW = datetime(2026, 1, 31, tzinfo=UTC)
SHA256S = [sha256_hex(str(number).encode()) for number in range(60)]
IDS = [training_image_id(sha256) for sha256 in SHA256S]
STRANGER = training_image_id(sha256_hex(b"nobody indexed this"))


def fake_rights(place: DataLocation) -> Iterator[RightsReader]:
    owners = {work: sample_owner(number % 3) for number, work in enumerate(IDS)}
    yield FakeRights.with_owners([GENERATOR], owners)


def catalogue(place: DataLocation) -> Iterator[RightsReader]:
    works = [
        NewWork(
            work, sha256, 8, 8, "paintings", sha256, "", owner=OwnerReference(str(number % 3), f"owner {number % 3}")
        )
        for number, (work, sha256) in enumerate(zip(IDS, SHA256S, strict=True))
    ]
    with open_catalogue(place, write=True) as opened:
        opened.record(works)
        opened.add_generator(GENERATOR)
    with open_catalogue(place) as opened:
        yield opened


@pytest.fixture(params=[catalogue, fake_rights], ids=["catalogue", "fake"])
def rights(request: pytest.FixtureRequest, place: DataLocation) -> Iterator[RightsReader]:
    with contextmanager(request.param)(place) as reader:
        yield reader


def test_a_registered_generator_is_answered(rights: RightsReader) -> None:
    assert rights.generator("demo-1") == GENERATOR


def test_an_unknown_generator_lists_the_known(rights: RightsReader) -> None:
    with pytest.raises(UnknownGenerator, match=r"'demo-2'.*demo-1"):
        rights.generator("demo-2")


def test_every_id_is_answered_with_rights_that_sum_to_the_whole(rights: RightsReader) -> None:
    ids = [*IDS[:50], STRANGER]
    cards = rights.works(ids, NOW)
    assert set(cards) == set(ids)
    for work, card in cards.items():
        assert card.training_image_id == work
        assert sum(beneficiary.share_ppm for beneficiary in card.beneficiaries) == 1_000_000


def test_an_owner_has_an_account_and_a_name(rights: RightsReader) -> None:
    (beneficiary,) = rights.works(IDS[:1], NOW)[IDS[0]].beneficiaries
    assert beneficiary.owner_id is not None
    assert beneficiary.account == f"owner:{beneficiary.owner_id}"
    assert beneficiary.display_name.startswith("owner")


def test_works_of_one_owner_are_paid_to_one_account(rights: RightsReader) -> None:
    cards = rights.works(IDS, NOW)
    accounts = [cards[work].beneficiaries[0].account for work in IDS]
    assert accounts[0] == accounts[3] != accounts[1]
    assert len(set(accounts)) == 3


def test_a_work_that_nobody_knows_is_paid_to_suspense(rights: RightsReader) -> None:
    (beneficiary,) = rights.works([STRANGER], NOW)[STRANGER].beneficiaries
    assert (beneficiary.account, beneficiary.owner_id) == ("suspense", None)


def test_no_ids_no_cards(rights: RightsReader) -> None:
    assert rights.works(list[TrainingImageId](), NOW) == {}
