"""The secret behind lookups of owners is created once, also by concurrent writers."""

from pathlib import Path
from unittest.mock import patch

import pytest

from gmvaluator.catalogue.records import NewWork, OwnerReference
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.catalogue.vault import Vault
from gmvaluator.errors import PreconditionFailed
from gmvaluator.ids import sha256_hex
from gmvaluator.testing.postings import sample_work

WORK = NewWork(
    sample_work(1), sha256_hex(b"1"), 8, 8, "paintings", "work-1", "", owner=OwnerReference("ada", "Ada")
)  # fmt: skip


def test_the_second_writer_uses_the_secret_of_the_first(tmp_path: Path) -> None:
    """Both check before either has created it, and the first records owners before the second can write."""
    with open_catalogue(tmp_path, write=True) as catalogue:
        catalogue.record([WORK])
        with patch.object(Vault, "has_secret", side_effect=[False, True]), patch.object(Vault, "create_secret") as make:
            catalogue.prepare_keys()
        make.assert_not_called()


def test_a_lost_secret_is_not_created_again_while_there_are_owners(tmp_path: Path) -> None:
    with open_catalogue(tmp_path, write=True) as catalogue:
        catalogue.record([WORK])
        with patch.object(Vault, "has_secret", return_value=False), pytest.raises(PreconditionFailed, match="backup"):
            catalogue.prepare_keys()
