"""The key that seals session cookies: created once, the same for every process."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dashboard.web.access import KEY_FILE, session_key
from tests.support.races import link_together


def test_the_key_is_private_and_stays(tmp_path: Path) -> None:
    key = session_key(tmp_path / "data")
    assert session_key(tmp_path / "data") == key
    assert (tmp_path / "data" / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_two_first_users_race_and_get_the_same_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link_together(monkeypatch, 2)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: session_key(tmp_path), range(2))
    assert first == second == session_key(tmp_path)


def test_a_crash_while_the_key_is_created_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crash)
        with pytest.raises(KeyboardInterrupt):
            session_key(tmp_path)
    assert not (tmp_path / KEY_FILE).exists()
    assert len(session_key(tmp_path)) == 44
