"""Cached rights equal the catalogue's, also right after a change and at any other time."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gmvaluator.catalogue.records import NewWork, OwnerReference
from gmvaluator.catalogue.rights_cache import CachedRights
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.errors import UnknownGenerator
from gmvaluator.ids import sha256_hex, training_image_id
from gmvaluator.ports import Generator

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def work(number: int, owner: str) -> NewWork:
    sha256 = sha256_hex(str(number).encode())
    return NewWork(
        training_image_id(sha256), sha256, 8, 8, "set", f"key {number}", "", owner=OwnerReference(owner, f"Ms {owner}")
    )


def test_cached_works_are_the_stored_ones(tmp_path: Path) -> None:
    works = [work(number, f"o{number % 3}") for number in range(9)]
    ids = [new.training_image_id for new in works]
    with open_catalogue(tmp_path, write=True) as writing, open_catalogue(tmp_path) as reading:
        rights = CachedRights(reading)
        assert rights.cached_works(ids, NOW) is None
        writing.record(works[:5])
        for at in (NOW, NOW - timedelta(days=9_000), NOW + timedelta(days=9_000)):
            assert rights.works(ids, at) == reading.works(ids, at) == rights.cached_works(ids, at)
        writing.record(works[5:])
        assert rights.cached_works(ids, NOW) is None
        assert rights.works(ids, NOW) == reading.works(ids, NOW) == rights.cached_works(ids, NOW)


def test_an_erased_owner_is_erased_in_the_cache(tmp_path: Path) -> None:
    new = work(1, "alice")
    with open_catalogue(tmp_path, write=True) as writing, open_catalogue(tmp_path) as reading:
        writing.record([new])
        rights = CachedRights(reading)
        (payee,) = rights.works([new.training_image_id], NOW)[new.training_image_id].beneficiaries
        assert payee.display_name == "Ms alice"
        assert payee.owner_id is not None
        writing.erase_owner(payee.owner_id)
        (after,) = rights.works([new.training_image_id], NOW)[new.training_image_id].beneficiaries
        assert (after.display_name, after.account) == ("(forgotten)", payee.account)


def test_a_changed_generator_is_read_again(tmp_path: Path) -> None:
    with open_catalogue(tmp_path, write=True) as writing, open_catalogue(tmp_path) as reading:
        rights = CachedRights(reading)
        with pytest.raises(UnknownGenerator):
            rights.generator("g")
        writing.record([work(1, "alice")])
        writing.add_generator(Generator("g", "works", ("set",), "paper@1"))
        assert rights.generator("g").policy == "paper@1"
        writing.add_generator(Generator("g", "works", ("set",), "calibrated@2"), replace=True)
        assert rights.generator("g").policy == "calibrated@2"
