"""Keys of owners: private, durable, and the only way to read a name."""

import stat
from pathlib import Path

import pytest

from gmvaluator.catalogue.vault import Vault
from gmvaluator.errors import Failure, PreconditionFailed
from gmvaluator.testing.postings import sample_owner

ADA, BEN = sample_owner(0), sample_owner(1)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    made = Vault(tmp_path / "keys")
    made.create_secret()
    made.create_key(ADA)
    made.create_key(BEN)
    return made


def test_a_name_is_read_back_by_its_owners_key_only(vault: Vault) -> None:
    sealed = vault.encrypt(ADA, "name", "Ada Lovelace")
    assert b"Ada" not in sealed
    assert vault.decrypt(ADA, "name", sealed) == "Ada Lovelace"
    with pytest.raises(Failure):
        vault.decrypt(BEN, "name", sealed)
    with pytest.raises(Failure):
        vault.decrypt(ADA, "contact", sealed)


def test_two_ciphertexts_of_one_name_differ(vault: Vault) -> None:
    assert vault.encrypt(ADA, "name", "Ada") != vault.encrypt(ADA, "name", "Ada")


def test_key_files_are_private(vault: Vault, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.iterdir())
    assert {file.name for file in files} == {f"{ADA}.key", f"{BEN}.key", "catalogue.secret"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_destroying_a_key_erases_its_owner_and_no_other(vault: Vault) -> None:
    ada, ben = vault.encrypt(ADA, "name", "Ada"), vault.encrypt(BEN, "name", "Ben")
    vault.destroy_key(ADA)
    vault.destroy_key(ADA)
    assert not vault.has_key(ADA)
    with pytest.raises(PreconditionFailed, match="forgotten"):
        vault.decrypt(ADA, "name", ada)
    assert vault.decrypt(BEN, "name", ben) == "Ben"


def test_lookup_is_stable_depends_on_the_secret_and_keeps_namespaces_apart(vault: Vault, tmp_path: Path) -> None:
    assert vault.lookup("", "ada") == Vault(tmp_path / "keys").lookup("", "ada")
    assert vault.lookup("a", "bc") != vault.lookup("ab", "c")
    other = Vault(tmp_path / "others")
    other.create_secret()
    assert other.lookup("", "ada") != vault.lookup("", "ada")


def test_a_lost_secret_is_named(tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed, match=r"catalogue\.secret"):
        Vault(tmp_path).lookup("", "ada")
