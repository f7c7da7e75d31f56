"""Erasure of an owner: no byte of the name is left anywhere, and no amount or hash has changed."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gmvaluator.auth.signing import Signed, Signer
from gmvaluator.catalogue.claims_import import read_claims
from gmvaluator.catalogue.erasure import erase_owner
from gmvaluator.catalogue.listing import find_owner
from gmvaluator.catalogue.records import NewWork, OwnerReference
from gmvaluator.catalogue.rights import ERASED_NAME
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.catalogue.vault import Vault
from gmvaluator.errors import Conflict, NotFound, PreconditionFailed
from gmvaluator.ledger.store import open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.storage.sqlite import back_up
from gmvaluator.testing.postings import sample_owner, sample_work
from tests.support.scenes import OCTOBER, attribute, import_rights, record, sha256_of, work

CANARIES = ("canary-manifest-77", "Canary Lovelace-Name", "canary@contact.example")


@pytest.fixture
def filled(place: DataLocation, tmp_path: Path) -> DataLocation:
    """A work whose owner has a canary name, contact and manifest id, and which a generation paid."""
    owner = OwnerReference(CANARIES[0], CANARIES[1])
    record(place, NewWork(sample_work(1), sha256_of(1), 8, 8, "paintings", "work-1", "", owner=owner), work(2, "ben"))
    head = "sha256,owner_id,owner_name,owner_contact,share_ppm\n"
    import_rights(place, tmp_path, head + f"{sha256_of(1)},{','.join(CANARIES)},1000000\n")
    (tmp_path / "rights.csv").unlink()
    attribute(place, "g1", [1, 2], OCTOBER)
    return place


def found_in(folder: Path, needles: list[bytes]) -> list[tuple[str, bytes]]:
    """Return the files that contain one of `needles`, in any case."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [(path.name, needle) for path in files for needle in needles if needle.lower() in path.read_bytes().lower()]


def test_no_trace_is_left_in_database_log_and_earlier_backups(filled: DataLocation, tmp_path: Path) -> None:
    names = [canary.encode() for canary in CANARIES] + [canary.encode("utf-16-le") for canary in CANARIES]
    with open_catalogue(filled, write=True) as catalogue:
        owner_id = find_owner(catalogue, CANARIES[0])
        key = (filled.folder / "keys" / f"{owner_id}.key").read_bytes()
        with catalogue.snapshot() as connection:
            rows = connection.exec_driver_sql("SELECT ciphertext, owner_id FROM owner_references").all()
        sealed = [bytes(row[0]) for row in rows if str(owner_id).replace("-", "") in str(row[1]).replace("-", "")]
        assert len(sealed) == 3
        if not filled.database_url:
            back_up(filled.folder / "catalogue.sqlite", tmp_path / "backup.sqlite")
            assert found_in(tmp_path, sealed)
        with open_ledger(filled) as book:
            before = (book.head(), book.totals(), book.balances())
        signed = erase_owner(catalogue, owner_id, filled.folder, {"sequence": before[0].sequence})
        receipt = signed.value
        assert receipt["references_removed"] == 3
        assert receipt["key_destroyed"] is True
        # While this writer is open its database and log lie beside it: nothing readable is in either.
        assert found_in(tmp_path, [*names, key]) == []
        if not filled.database_url:
            (tmp_path / "backup.sqlite").rename(tmp_path / "elsewhere")
            (tmp_path / "elsewhere").unlink()
            assert found_in(tmp_path, sealed) == []
    assert signed.genuine(Signer(filled.folder / "keys").public_key())
    kept = json.loads((filled.folder / "receipts" / f"forgotten-{owner_id}.json").read_text())
    assert Signed.from_dict(kept) == signed
    with open_ledger(filled) as book, open_catalogue(filled) as catalogue:
        assert (book.head(), book.totals(), book.balances()) == before
        assert book.verify().ok
        assert catalogue.display_names([owner_id]) == {owner_id: ERASED_NAME}
        with pytest.raises(PreconditionFailed, match="was erased"):
            find_owner(catalogue, CANARIES[0])


def test_a_backup_made_before_cannot_be_read_afterwards(tmp_path: Path) -> None:
    place = DataLocation(tmp_path / "data")
    record(place, work(1, "ada"))
    back_up(place.folder / "catalogue.sqlite", tmp_path / "backup.sqlite")
    with open_catalogue(place, write=True) as catalogue:
        owner_id = find_owner(catalogue, "ada")
        with catalogue.snapshot() as connection:
            (sealed, *_) = connection.exec_driver_sql("SELECT ciphertext FROM owner_references").scalars()
        erase_owner(catalogue, owner_id, place.folder, None)
        again = erase_owner(catalogue, owner_id, place.folder, None)
        assert again.value["references_removed"] == 0
    (place.folder / "catalogue.sqlite").write_bytes((tmp_path / "backup.sqlite").read_bytes())
    with open_catalogue(place) as restored:
        assert restored.display_names([owner_id]) == {owner_id: ERASED_NAME}
    with pytest.raises(PreconditionFailed, match="forgotten"):
        Vault(place.folder / "keys").decrypt(owner_id, "name", bytes(sealed))


def test_nobody_is_forgotten_by_mistake(filled: DataLocation) -> None:
    with open_catalogue(filled, write=True) as catalogue:
        with pytest.raises(NotFound):
            erase_owner(catalogue, sample_owner(99), filled.folder, None)
        with pytest.raises(NotFound):
            find_owner(catalogue, "nobody")


def test_an_erased_owner_does_not_come_back_by_indexing(place: DataLocation) -> None:
    """What is known stays with its claims; new works are refused, unless somebody else has them, too."""
    record(place, work(1, "ada"))
    with open_catalogue(place, write=True) as catalogue:
        ada = catalogue.owner_of_manifest_id("ada")
        erase_owner(catalogue, ada, place.folder, None)
        before = catalogue.counts()
        again = catalogue.record([work(1, "ada"), work(2, "ada"), work(3, "ada"), replace(work(3, "ben"), key="copy")])
        assert again.refused == (work(2, "ada").training_image_id,)
        after = catalogue.counts()
        assert (after.owners, after.claims, after.works) == (before.owners + 1, before.claims + 1, before.works + 1)
        moment = datetime.now(UTC)
        (card,) = catalogue.works([work(1, "ada").training_image_id], moment).values()
        assert [(payee.owner_id, payee.share_ppm) for payee in card.beneficiaries] == [(ada, 1_000_000)]
        owners = [OwnerReference("ada", "Ada"), OwnerReference("ben", "Ben")]
        assert catalogue.erased_owners(owners) == {owners[0]}
        # Nor does the id lead to somebody who has it as a name.
        catalogue.record([replace(work(4, "cleo"), owner=OwnerReference("cleo", "ada"))])
        with pytest.raises(PreconditionFailed, match="was erased"):
            find_owner(catalogue, "ada")


def test_an_erased_owner_does_not_come_back_by_an_import_of_rights(place: DataLocation, tmp_path: Path) -> None:
    record(place, work(1, "ben"), work(2, "ben"))
    with open_catalogue(place, write=True) as catalogue:
        catalogue.keep_owner_out("ada")
        with pytest.raises(Conflict):
            catalogue.keep_owner_out("ben")
        file = tmp_path / "rights.csv"
        file.write_text(
            "sha256,owner_id,share_ppm\n"
            f"{sha256_of(1)},ada,1000000\n{sha256_of(1)},ada,0\n{sha256_of(2)},cleo,1000000\n"
        )
        result = catalogue.import_claims(read_claims(file, "rights"))
        assert (result.added, [row.line for row in result.rejected]) == (1, [2, 3])
        assert all("was erased" in row.reason and "ada" not in row.reason for row in result.rejected)
        assert catalogue.counts().owners == 2
