"""Removals and opt-outs decide about what they name: a record, a URL or an image; not about a key that others have."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import insert

from gmvaluator.catalogue.listing import describe_works, list_owners
from gmvaluator.catalogue.records import NewWork, OwnerReference
from gmvaluator.catalogue.removal import OptedOut, Selection
from gmvaluator.catalogue.schema import removed_keys
from gmvaluator.catalogue.store import Catalogue, open_catalogue
from gmvaluator.catalogue.tombstones import Record
from gmvaluator.ids import sha256_hex, training_image_id
from gmvaluator.storage.database import DataLocation


@pytest.fixture
def catalogue(place: DataLocation) -> Iterator[Catalogue]:
    with open_catalogue(place, write=True) as opened:
        yield opened


def work(content: str, part: str = "a", key: str = "0000", owner: str = "ada", data_set: str = "set") -> NewWork:
    """A work of one of two downloads, both of which count from 0000."""
    sha256 = sha256_hex(content.encode())
    uri, url = f"file:///{part}/00000.tar#{key}", f"https://x/{part}/{key}.jpg"
    reference = OwnerReference(owner, owner)
    return NewWork(training_image_id(sha256), sha256, 9, 9, data_set, key, uri, owner=reference, url=url)


def record(work: NewWork) -> Record:
    return Record(work.data_set, work.key, work.uri, work.url)


def remove(catalogue: Catalogue, **criteria: frozenset[str]) -> None:
    """Remove works as `index remove` does, after it has shown them."""
    selected = catalogue.removals(Selection(**criteria))  # type: ignore[arg-type]
    assert not selected.ambiguous
    catalogue.add_tombstones(selected.works, "removed")
    catalogue.erase_sources([removal.training_image_id for removal in selected.works])


ADA, BEN = work("ada's", "a"), work("ben's", "b", owner="ben")


def test_a_key_of_several_records_selects_none_without_saying_so(catalogue: Catalogue) -> None:
    catalogue.record([ADA, BEN])
    selected = catalogue.removals(Selection(keys=frozenset({"0000"})))
    assert selected.ambiguous == {"0000": tuple(sorted((ADA.sha256, BEN.sha256)))}
    assert not catalogue.removals(Selection(names=frozenset({ADA.uri}))).ambiguous


def test_versions_of_one_record_are_all_meant_by_its_key(catalogue: Catalogue) -> None:
    edited = work("ada's, edited", "a")
    catalogue.record([ADA])
    catalogue.record([edited])
    remove(catalogue, keys=frozenset({"0000"}))
    assert catalogue.tombstoned([ADA.sha256, edited.sha256]) == {ADA.sha256, edited.sha256}


@pytest.mark.parametrize(
    ("criteria", "kept_out"),
    [
        ({"sha256s": frozenset({ADA.sha256})}, set()),
        ({"names": frozenset({ADA.url})}, {"same record", "same URL"}),
        ({"names": frozenset({ADA.uri})}, {"same record", "same file"}),
    ],
)
def test_a_removal_keeps_out_what_it_named(
    catalogue: Catalogue, criteria: dict[str, frozenset[str]], kept_out: set[str]
) -> None:
    catalogue.record([ADA, BEN])
    remove(catalogue, **criteria)
    others = {
        "same record": record(ADA),
        "same URL": Record("other", "7", "file:///c", ADA.url),
        "same file": replace(record(ADA), url=""),
        "same key": record(BEN),
    }
    assert catalogue.removed_among(list(others.values())) == {others[name] for name in kept_out}
    assert catalogue.record([ADA, BEN]).refused == (ADA.training_image_id,)


def test_the_works_of_an_owner_are_kept_out_where_they_were(catalogue: Catalogue) -> None:
    catalogue.record([ADA, BEN])
    remove(catalogue, owners=frozenset({catalogue.owner_of_manifest_id("ada")}))  # type: ignore[arg-type]
    assert catalogue.removed_among([record(ADA), record(BEN)]) == {record(ADA)}


def test_an_owner_whose_claim_has_ended_decides_about_the_work_no_more(place: DataLocation) -> None:
    """A later run corrected the owner, as a contract that begins later does."""
    with open_catalogue(place, write=True) as before:
        before.record([ADA, work("hers still", "a", key="0001")])
    with open_catalogue(place, write=True) as catalogue:
        catalogue.record([replace(ADA, owner=OwnerReference("ben", "ben"))])
        ada, ben = (catalogue.owner_of_manifest_id(name) for name in ("ada", "ben"))
        hers = catalogue.removals(Selection(owners=frozenset({ada})))
        assert [(removal.sha256, hers.shared) for removal in hers.works] == [(sha256_hex(b"hers still"), 0)]
        his = catalogue.removals(Selection(owners=frozenset({ben})))
        assert ([removal.sha256 for removal in his.works], his.shared) == ([ADA.sha256], 0)
        remove(catalogue, owners=frozenset({ben}))  # type: ignore[arg-type]
        assert catalogue.restorable(Selection(owners=frozenset({ada}))).sha256s == ()
        assert catalogue.restorable(Selection(owners=frozenset({ben}))).sha256s == (ADA.sha256,)
        assert [(row["display_name"], row["works"]) for row in list_owners(catalogue, 9)] == [("ada", 1), ("ben", 1)]
        (described,) = describe_works(catalogue, [ADA.training_image_id])
        assert [owner["display_name"] for owner in described["owners"]] == ["ben"]


def test_a_removal_is_taken_back_by_what_it_named(catalogue: Catalogue) -> None:
    catalogue.record([ADA, BEN])
    remove(catalogue, names=frozenset({ADA.url}))
    remove(catalogue, keys=frozenset({BEN.key}))
    for selection, sha256 in (
        (Selection(names=frozenset({ADA.url, "nothing"})), ADA.sha256),
        (Selection(keys=frozenset({BEN.key, "nothing"})), BEN.sha256),
    ):
        tombs = catalogue.restorable(selection)
        assert (tombs.sha256s, tombs.unmatched, tombs.ambiguous) == ((sha256,), ("nothing",), {})
        assert catalogue.take_back(tombs) == 1
        assert catalogue.restorable(selection).sha256s == ()
    assert catalogue.removed_among([record(ADA), record(BEN)]) == set()
    assert catalogue.record([ADA, BEN]).refused == ()


def test_a_key_by_which_several_records_were_removed_is_ambiguous(catalogue: Catalogue) -> None:
    catalogue.record([ADA, BEN])
    remove(catalogue, names=frozenset({ADA.uri}))
    remove(catalogue, names=frozenset({BEN.uri}))
    tombs = catalogue.restorable(Selection(keys=frozenset({"0000"})))
    assert tombs.ambiguous == {"0000": tuple(sorted((ADA.sha256, BEN.sha256)))}


def test_tombstones_of_keys_by_an_older_version_hold_and_can_be_taken_back(
    catalogue: Catalogue, place: DataLocation
) -> None:
    """They were of a data set and a key, whatever the record."""
    catalogue.add_data_set("set")
    lookup = catalogue._vault.lookup("removed:set", "0000")
    with catalogue._writing() as connection:
        connection.execute(insert(removed_keys), {"lookup": lookup, "recorded_at": "2026-01-01T00:00:00.000000Z"})
    assert catalogue.removed_among([record(ADA), Record("other", "0000")]) == {record(ADA)}
    tombs = catalogue.restorable(Selection(keys=frozenset({"0000"})))
    assert (tombs.sha256s, tombs.keys) == ((), (lookup,))
    catalogue.take_back(tombs)
    assert catalogue.removed_among([record(ADA)]) == set()


def test_an_opt_out_by_url_is_of_one_record(catalogue: Catalogue) -> None:
    catalogue.record([ADA, BEN])
    works = catalogue.opted_out_works("set", OptedOut(names={ADA.url}, records={(record(ADA), ADA.sha256)}))
    assert (works.exact, works.shared) == ((ADA.sha256,), ())


def test_a_key_of_several_records_opts_none_out(catalogue: Catalogue) -> None:
    catalogue.record([ADA, BEN])
    assert catalogue.opted_out_works("set", OptedOut(names={"0000"})).exact == ()
    # Only one of the two is indexed, and the run has seen both.
    remove(catalogue, sha256s=frozenset({ADA.sha256}))
    assert catalogue.opted_out_works("set", OptedOut(names={"0000"}, shared_keys={"0000"})).exact == ()
    assert catalogue.opted_out_works("set", OptedOut(names={"0000"})).exact == (BEN.sha256,)


def test_a_record_without_opt_out_keeps_its_work(catalogue: Catalogue) -> None:
    """Two records hold the same bytes, and one owner opts out."""
    copy = work("ada's", "b", key="copy", owner="ben")
    catalogue.record([ADA, copy])
    works = catalogue.opted_out_works("set", OptedOut(names={ADA.url}))
    assert (works.exact, works.shared) == ((), (ADA.sha256,))
    assert catalogue.opted_out_works("set", OptedOut(names={ADA.url, "copy"})).exact == (ADA.sha256,)
    assert catalogue.opted_out_works("set", OptedOut(sha256s={ADA.sha256})).exact == (ADA.sha256,)


def test_a_record_whose_folder_moved_is_known_by_key_and_content(catalogue: Catalogue) -> None:
    old = replace(ADA, url="")
    catalogue.record([old])
    moved = replace(record(old), uri="file:///elsewhere/00000.tar#0000")
    assert catalogue.opted_out_works("set", OptedOut(records={(moved, ADA.sha256)})).exact == (ADA.sha256,)
    assert catalogue.opted_out_works("set", OptedOut(records={(moved, "")})).exact == ()
    catalogue.record([replace(ADA, uri=moved.uri)])
    remove(catalogue, keys=frozenset({"0000"}))
    assert catalogue.removed_among([replace(moved, url="https://y"), record(old)]) == {replace(moved, url="https://y")}


def test_names_and_hashes_that_are_known_are_told_from_others(catalogue: Catalogue) -> None:
    catalogue.record([ADA, BEN])
    remove(catalogue, names=frozenset({ADA.url}))
    assert catalogue.known_names("set", {ADA.url, BEN.uri, "0000", "x"}) == {ADA.url, BEN.uri, "0000"}
    assert catalogue.known_or_removed({ADA.sha256, BEN.sha256, "0" * 64}) == {ADA.sha256, BEN.sha256}


@pytest.mark.parametrize("batches", [1, 2])
def test_every_url_of_one_key_and_content_is_known(catalogue: Catalogue, batches: int) -> None:
    """A collector downloads one image from two addresses, and both times counts from 0."""
    copy = replace(ADA, uri="file:///b/00000.tar#0000", url="https://y/cat.jpg")
    for _ in range(2):
        for batch in ([ADA, copy],) if batches == 1 else ([ADA], [copy]):
            catalogue.record(batch)
    assert catalogue.counts().sources == 2
    assert catalogue.known_names("set", {ADA.url, copy.url}) == {ADA.url, copy.url}
    works = catalogue.opted_out_works("set", OptedOut(names={copy.url}))
    assert (works.exact, works.shared) == ((), (ADA.sha256,))
    assert catalogue.opted_out_works("set", OptedOut(names={ADA.url, copy.url})).exact == (ADA.sha256,)
    remove(catalogue, names=frozenset({copy.url}))
    assert catalogue.removed_among([record(ADA), record(copy)]) == {record(copy)}


def test_record_that_states_its_url_later_or_no_more_is_one_record(catalogue: Catalogue) -> None:
    without = replace(ADA, url="")
    moved = replace(without, uri="file:///elsewhere/00000.tar#0000")
    catalogue.record([without, ADA])
    catalogue.record([moved])
    assert catalogue.counts().sources == 1
    assert catalogue.known_names("set", {ADA.url, moved.uri, ADA.uri}) == {ADA.url, moved.uri}


def test_an_opt_out_by_key_is_looked_up_in_every_data_set_that_an_export_may_name(catalogue: Catalogue) -> None:
    catalogue.record([ADA, work("a poster", "c", key="1", data_set="posters")])
    listed = OptedOut(names=frozenset({"0000", "1"}))
    assert catalogue.opted_out_works("export", listed).exact == ()
    exact = catalogue.opted_out_works(None, listed).exact
    assert exact == tuple(sorted((ADA.sha256, sha256_hex(b"a poster"))))
    assert catalogue.known_names(None, {"0000", "1", "2"}) == {"0000", "1"}


def test_an_opted_out_key_that_indexed_records_share_is_named(catalogue: Catalogue) -> None:
    catalogue.record([ADA, BEN])
    works = catalogue.opted_out_works("set", OptedOut(names=frozenset({"0000"})))
    assert (works.exact, works.shared, works.ambiguous) == ((), (), ("0000",))
