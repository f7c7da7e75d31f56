"""The catalogue: recording is idempotent, owners are found again and can be erased, runs resume."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert

from gmvaluator.catalogue.records import NewWork, OwnerReference, Recorded
from gmvaluator.catalogue.rights import ERASED_NAME
from gmvaluator.catalogue.schema import REVISION, claims
from gmvaluator.catalogue.store import FILE_NAME, Catalogue, open_catalogue
from gmvaluator.catalogue.tombstones import Removal
from gmvaluator.errors import (
    AlreadyHeld,
    Conflict,
    InvalidInput,
    InvalidPolicy,
    MissingData,
    NotFound,
    PreconditionFailed,
)
from gmvaluator.ids import OwnerId, sha256_hex, training_image_id
from gmvaluator.ports import Beneficiary, Generator
from gmvaluator.storage.database import Database, DataLocation, location_in
from gmvaluator.storage.schema import END, utc_text
from gmvaluator.testing.postings import sample_owner

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ADA = OwnerReference("ada", "Ada Canary-Lovelace")
BEN = OwnerReference("ben", "Ben")


@pytest.fixture
def catalogue(place: DataLocation) -> Iterator[Catalogue]:
    with open_catalogue(place, write=True) as opened:
        yield opened


def work(number: int, data_set: str = "paintings", owner: OwnerReference | None = ADA, key: str = "") -> NewWork:
    sha256 = sha256_hex(str(number).encode())
    name = key or f"work-{number}"
    return NewWork(
        training_image_id(sha256), sha256, 640, 480, data_set, name, f"file:///{name}.png", f"Title {number}",
        "CC0-1.0", ("red", "blue"), owner,
    )  # fmt: skip


def paid(catalogue: Catalogue, number: int, at: datetime = NOW) -> tuple[Beneficiary, ...]:
    work_id = work(number).training_image_id
    return catalogue.works([work_id], at)[work_id].beneficiaries


def accounts(catalogue: Catalogue, number: int, at: datetime = NOW) -> dict[str, int]:
    return {payee.account: payee.share_ppm for payee in paid(catalogue, number, at)}


def owner_id_of(catalogue: Catalogue, number: int) -> OwnerId:
    (beneficiary,) = paid(catalogue, number)
    assert beneficiary.owner_id is not None
    return beneficiary.owner_id


def test_recording_again_changes_nothing(catalogue: Catalogue) -> None:
    batch = [work(number) for number in range(10)]
    assert catalogue.record(batch) == Recorded(10, 10, 10, ())
    before = catalogue.counts()
    assert catalogue.record(batch + batch) == Recorded(0, 0, 0, ())
    assert catalogue.counts() == before
    assert (before.works, before.owners, before.data_sets) == (10, 1, 1)
    assert catalogue.record([]) == Recorded(0, 0, 0, ())


def test_a_second_data_set_adds_a_source_and_a_claim_never_a_work(catalogue: Catalogue) -> None:
    catalogue.record([work(1)])
    assert catalogue.record([work(1, "posters", key="other-key")]) == Recorded(0, 1, 1, ())
    assert catalogue.data_sets() == ["paintings", "posters"]
    work_id = work(1).training_image_id
    assert catalogue.works([work_id], NOW)[work_id].key == "work-1"
    assert list(accounts(catalogue, 1).values()) == [1_000_000]


def test_a_second_owner_makes_the_work_held(catalogue: Catalogue) -> None:
    catalogue.record([work(1), work(2)])
    catalogue.record([work(1, "posters", BEN), work(2, owner=BEN, key="copy")])
    assert accounts(catalogue, 1) == {"held": 1_000_000}
    assert accounts(catalogue, 2) == {"held": 1_000_000}


def test_works_are_counted_by_whether_they_have_an_owner(catalogue: Catalogue) -> None:
    catalogue.record([work(1), work(2, owner=None), work(3), work(4, "posters")])
    catalogue.record([work(3, owner=BEN, key="copy")])
    counted = catalogue.ownership("paintings")
    assert (counted.works, counted.owned, counted.in_suspense, counted.held) == (3, 2, 1, 1)
    assert str(counted) == "2 of 3 works have an owner, 1 are in suspense, 1 are held: claims compete"
    assert catalogue.ownership().works == 4
    catalogue.add_tombstones([Removal(work(2).training_image_id, work(2).sha256)], "removed")
    assert catalogue.ownership("paintings").in_suspense == 0
    assert catalogue.ownership("none").as_dict() == {"works": 0, "owned": 0, "held": 0, "in_suspense": 0}
    ids = {work(number).training_image_id for number in range(5)}
    assert catalogue.held_works(ids) == {work(3).training_image_id}


def test_a_work_without_an_owner_is_in_suspense_until_one_is_named(catalogue: Catalogue) -> None:
    catalogue.record([work(1, owner=None)])
    assert accounts(catalogue, 1) == {"suspense": 1_000_000}
    catalogue.record([work(1, owner=BEN)])
    assert paid(catalogue, 1)[0].display_name == "Ben"


def test_the_same_manifest_owner_is_found_in_a_later_import(place: DataLocation) -> None:
    with open_catalogue(place, write=True) as first:
        first.record([work(1)])
        ada = owner_id_of(first, 1)
    with open_catalogue(place, write=True) as second:
        second.record([work(2, "posters"), work(3, owner=replace(ADA, namespace="another provider"))])
        assert owner_id_of(second, 2) == ada
        assert owner_id_of(second, 3) != ada


@pytest.mark.parametrize(
    ("first", "later"),
    [("zo\u00eb", "zoe\u0308"), ("zoe\u0308", "zo\u00eb"), ("7", "7.0"), ("7.0", "7"), ("a b", "a\u00a0 b")],
)
def test_one_identifier_in_two_spellings_is_one_owner(catalogue: Catalogue, first: str, later: str) -> None:
    catalogue.record([work(1, owner=OwnerReference(first, "Zoë"))])
    catalogue.record([work(1, "posters", owner=OwnerReference(later, "Zoë"))])
    assert list(accounts(catalogue, 1).values()) == [1_000_000]
    assert catalogue.owner_of_manifest_id(first) == catalogue.owner_of_manifest_id(later) == owner_id_of(catalogue, 1)


@pytest.mark.parametrize(("stored", "now"), [("zoe\u0308", "zo\u00eb"), ("7.0", "7")])
def test_an_owner_of_a_catalogue_with_spellings_as_they_came_is_found(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, stored: str, now: str
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("gmvaluator.catalogue.records.normal_identifier", str)
        catalogue.record([work(1, owner=OwnerReference(stored, "Zoë"))])
    catalogue.record([work(1, "posters", owner=OwnerReference(now, "Zoë"))])
    assert list(accounts(catalogue, 1).values()) == [1_000_000]
    assert catalogue.owner_of_manifest_id(stored) == owner_id_of(catalogue, 1)


def test_the_newest_name_of_an_owner_counts(catalogue: Catalogue) -> None:
    catalogue.record([work(1, owner=OwnerReference("ada", ""))])
    assert paid(catalogue, 1)[0].display_name == "ada"
    catalogue.record([work(1)])
    assert paid(catalogue, 1)[0].display_name == ADA.display_name
    catalogue.record([work(1, owner=OwnerReference("ada", ""))])
    assert paid(catalogue, 1)[0].display_name == ADA.display_name


def test_names_and_manifest_ids_are_nowhere_in_the_files(tmp_path: Path) -> None:
    canary = OwnerReference("canary-manifest-id", "Canary Display-Name")
    with open_catalogue(tmp_path, write=True) as catalogue:
        catalogue.record([work(1, owner=canary)])
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {"catalogue.sqlite", "catalogue.sqlite-wal"} <= {path.name for path in files}
        assert not any(b"anary" in path.read_bytes() for path in files)


def test_an_erased_owner_keeps_the_account_but_has_no_name(catalogue: Catalogue, place: DataLocation) -> None:
    catalogue.record([work(1), work(2, owner=BEN)])
    ada = owner_id_of(catalogue, 1)
    with open_catalogue(place) as other_process:
        assert paid(other_process, 1)[0].display_name == ADA.display_name
        catalogue.erase_owner(ada)
        for reader in (catalogue, other_process):
            (beneficiary,) = paid(reader, 1)
            assert beneficiary == Beneficiary(f"owner:{ada}", ada, ERASED_NAME, 1_000_000)
            assert reader.display_names([ada]) == {ada: ERASED_NAME}
            assert paid(reader, 2)[0].display_name == "Ben"
    assert not (place.folder / "keys" / f"{ada}.key").exists()
    with pytest.raises(NotFound):
        catalogue.erase_owner(sample_owner(99))


def test_destroying_the_key_file_alone_forgets_the_owner(catalogue: Catalogue, place: DataLocation) -> None:
    catalogue.record([work(1)])
    ada = owner_id_of(catalogue, 1)
    assert catalogue.display_names([ada]) == {ada: ADA.display_name}
    (place.folder / "keys" / f"{ada}.key").unlink()
    assert catalogue.display_names([ada]) == {ada: ERASED_NAME}
    assert catalogue.record([work(2)]).works == 1


def test_rights_are_judged_at_the_time_asked_for(place: DataLocation) -> None:
    with open_catalogue(place, write=True) as catalogue:
        catalogue.record([work(1, owner=None), work(2, owner=BEN)])
        ben = owner_id_of(catalogue, 2)
    sale, day = datetime(2026, 1, 1, tzinfo=UTC), utc_text(datetime(2026, 1, 1, tzinfo=UTC))
    database = Database(location_in(place, FILE_NAME), REVISION, write=True)
    row = {
        "training_image_id": work(1).training_image_id,
        "owner_id": ben,
        "share_ppm": 250_000,
        "valid_from": day,
        "valid_to": END,
        "origin": "rights:contract",
        "recorded_at": day,
    }
    with database.writer.begin() as connection:
        connection.execute(insert(claims), row)
    database.close()
    with open_catalogue(place) as catalogue:
        assert accounts(catalogue, 1, datetime(2025, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)) == {"suspense": 1_000_000}
        assert accounts(catalogue, 1, sale) == {f"owner:{ben}": 250_000, "suspense": 750_000}


def test_known_works_and_tombstones(catalogue: Catalogue) -> None:
    catalogue.record([work(1)])
    sha256s = [work(1).sha256, work(2).sha256]
    assert catalogue.known(sha256s) == {work(1).sha256}
    catalogue.add_tombstones([Removal(work(2).training_image_id, work(2).sha256)], "opted out")
    catalogue.add_tombstones([Removal(work(2).training_image_id, work(2).sha256)], "opted out")
    catalogue.add_tombstones([], "nothing")
    assert catalogue.tombstoned(sha256s) == {work(2).sha256}
    assert catalogue.record([work(2), work(3)]) == Recorded(1, 1, 1, (work(2).training_image_id,))
    assert catalogue.known([work(2).sha256]) == set()


def test_generators_are_registered_once_and_changed_on_purpose(catalogue: Catalogue) -> None:
    catalogue.add_data_set("paintings")
    catalogue.add_data_set("posters")
    demo = Generator("demo-1", "works", ("paintings",), "paper@1")
    catalogue.add_generator(demo)
    catalogue.add_generator(demo)
    wider = replace(demo, data_sets=("paintings", "posters"))
    with pytest.raises(Conflict, match="--replace"):
        catalogue.add_generator(wider)
    assert catalogue.generator("demo-1") == demo
    catalogue.add_generator(wider, replace=True)
    catalogue.add_generator(replace(demo, model_version="another"))
    assert [generator.model_version for generator in catalogue.generators()] == ["another", "demo-1"]
    assert catalogue.generator("demo-1") == wider


@pytest.mark.parametrize(
    ("generator", "error", "message"),
    [
        (Generator("demo 1", "works", ("paintings",), "paper@1"), InvalidInput, "model version"),
        (Generator("demo-1", "works", (), "paper@1"), InvalidInput, "needs a data set"),
        (Generator("demo-1", "works", ("photos",), "paper@1"), PreconditionFailed, "known: paintings"),
        (Generator("demo-1", "works", ("paintings",), "nothing@1"), InvalidPolicy, "paper@1"),
        (Generator("demo-1", "a b", ("paintings",), "paper@1"), InvalidInput, "1-64 characters"),
    ],
)
def test_a_generator_that_cannot_work_is_refused(
    catalogue: Catalogue, generator: Generator, error: type[Exception], message: str
) -> None:
    catalogue.add_data_set("paintings")
    with pytest.raises(error, match=message):
        catalogue.add_generator(generator)
    assert catalogue.generators() == []


def test_an_unfinished_run_is_continued_and_a_finished_one_begun_anew(catalogue: Catalogue) -> None:
    assert catalogue.last_index_run("paintings", "/a") is None
    run = catalogue.begin_index_run("paintings", "/a")
    assert (run.position, dict(run.counts), run.finished) == (0, {}, False)
    catalogue.advance_index_run(run.run_id, 50, {"read": 50})
    assert catalogue.begin_index_run("paintings", "/b").run_id != run.run_id
    resumed = catalogue.begin_index_run("paintings", "/a")
    assert (resumed.run_id, resumed.position, dict(resumed.counts)) == (run.run_id, 50, {"read": 50})
    assert catalogue.advance_index_run(run.run_id, 60, {"read": 60}, finished=True).finished
    assert catalogue.begin_index_run("paintings", "/a").position == 0
    with pytest.raises(NotFound):
        catalogue.advance_index_run(99, 1, {})


def test_a_file_has_one_writer(tmp_path: Path) -> None:
    with open_catalogue(tmp_path, write=True), pytest.raises(AlreadyHeld, match=r"catalogue\.sqlite.*process"):
        open_catalogue(tmp_path, write=True)


def test_a_reader_does_not_write(catalogue: Catalogue, place: DataLocation) -> None:
    with open_catalogue(place) as reader, pytest.raises(PreconditionFailed, match="write=True"):
        reader.record([work(1)])


def test_a_missing_catalogue_says_what_to_do(place: DataLocation) -> None:
    with pytest.raises(MissingData, match="index add"):
        open_catalogue(place)


def test_a_lost_key_folder_is_not_silently_replaced(place: DataLocation) -> None:
    with open_catalogue(place, write=True) as catalogue:
        catalogue.record([work(1)])
    (place.folder / "keys" / "catalogue.secret").unlink()
    with pytest.raises(PreconditionFailed, match="restore DATA/keys"):
        open_catalogue(place, write=True)
    with pytest.raises(PreconditionFailed, match="restore DATA/keys"):
        open_catalogue(place, write=True)


def test_questions_are_bounded(catalogue: Catalogue) -> None:
    with pytest.raises(InvalidInput, match="10000"):
        catalogue.known([work(1).sha256] * 10_001)
    with pytest.raises(InvalidInput, match="5000"):
        catalogue.record([work(1)] * 5_001)


def test_works_are_described_by_size_and_first_licence(catalogue: Catalogue) -> None:
    catalogue.record([work(1), replace(work(1, key="again"), license="other"), work(2)])
    known, absent = work(1).training_image_id, work(3).training_image_id
    assert catalogue.sizes_and_licences([known, absent]) == {known: (640, 480, "CC0-1.0")}


def test_the_latest_works_are_those_of_the_batch_noted_last_without_what_was_removed(catalogue: Catalogue) -> None:
    ids = [work(number).training_image_id for number in range(5)]
    catalogue.record([work(number) for number in range(5)])
    for source, batches in (("run 1: a", [ids[:1], ids[1:4], []]), ("run 10: a", [ids[4:]])):
        run = catalogue.begin_index_run("paintings", source)
        for batch in batches:
            catalogue.advance_index_run(run.run_id, 1, {}, works=batch)
    catalogue.add_tombstones([Removal(work(3).training_image_id, work(3).sha256)], "removed")
    assert set(catalogue.latest_works("paintings", "run 1: ")) == {ids[1], ids[2]}
    assert catalogue.latest_works("paintings", "run 10: ") == ids[4:]
    assert catalogue.latest_works("paintings", "run 2: ") == catalogue.latest_works("other", "run 1: ") == []
