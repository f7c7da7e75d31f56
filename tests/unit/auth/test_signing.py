"""The signing key: created once, complete or absent, the same for every process."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gmvaluator.auth.signing import KEY_FILE, Signed, Signer
from gmvaluator.errors import MissingData
from tests.support.races import link_together


def test_a_signature_is_genuine_for_its_statement_and_key_only(tmp_path: Path) -> None:
    signed = Signer(tmp_path / "ours").sign(b'{"amount": 1}')
    other = Signer(tmp_path / "theirs").sign(b'{"amount": 1}')
    assert signed.genuine()
    assert signed.genuine(signed.public_key)
    assert not signed.genuine(other.public_key)
    assert not Signed(b'{"amount": 2}', signed.signature, signed.public_key).genuine()


def test_the_public_key_is_there_once_something_was_signed(tmp_path: Path) -> None:
    with pytest.raises(MissingData):
        Signer(tmp_path).public_key()
    assert Signer(tmp_path).sign(b"{}").public_key == Signer(tmp_path).public_key()


def test_two_first_signers_race_and_sign_with_the_same_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link_together(monkeypatch, 2)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: Signer(tmp_path).sign(b"{}"), range(2))
    assert first.public_key == second.public_key == Signer(tmp_path).public_key()
    assert [path.name for path in tmp_path.iterdir()] == [KEY_FILE]


def test_a_crash_while_the_key_is_created_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with pytest.raises(KeyboardInterrupt):
            Signer(tmp_path).sign(b"{}")
    assert not (tmp_path / KEY_FILE).exists()
    assert Signer(tmp_path).sign(b"{}").genuine()
