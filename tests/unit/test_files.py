"""Atomic writes, files that are created once, and locks."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from gmvaluator.files import FileLock, atomic_file, atomic_write, create_once, private_file, private_folder
from tests.support.races import link_together


class PowerLossError(Exception):
    """The process ends here, as far as the test goes."""


def write_half(path: Path) -> None:
    with atomic_file(path) as file:
        file.write(b"half")
        raise PowerLossError


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is synced, in order: "file" and "folder"."""
    kinds: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        kinds.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")  # noqa: PTH112
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return kinds


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"first")
    atomic_write(path, "zweite Fassung: ü", mode=0o600)
    assert path.read_text(encoding="utf-8") == "zweite Fassung: ü"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_synced_before_the_name(tmp_path: Path, synced: list[str]) -> None:
    atomic_write(tmp_path / "file", b"x")
    assert synced == ["file", "folder"]


def test_a_file_that_can_be_made_again_is_not_synced(tmp_path: Path, synced: list[str]) -> None:
    atomic_write(tmp_path / "file", b"x", durable=False)
    assert (tmp_path / "file").read_bytes() == b"x"
    assert synced == []


def test_permissions_are_set_before_the_content_is_there(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "secret", mode=0o600):
        (temporary,) = tmp_path.iterdir()
        assert temporary.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(PowerLossError):
        write_half(path)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [old] * (old is not None)


def test_a_rename_that_fails_removes_the_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        atomic_write(tmp_path / "taken", b"x")
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "absent" / "file", b"x")


def test_writers_that_seek_can_use_it(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "rows.npz") as file:
        np.savez(file, rows=np.arange(3))
    with np.load(tmp_path / "rows.npz") as stored:
        assert stored["rows"].tolist() == [0, 1, 2]


def test_concurrent_writers_leave_one_of_their_contents(tmp_path: Path) -> None:
    contents = [bytes([number]) * 50_000 for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: atomic_write(tmp_path / "file", content, durable=False), contents))
    assert (tmp_path / "file").read_bytes() in contents
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_the_first_creator_wins_and_every_other_reads_its_content(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert create_once(path, b"first") == b"first"
    assert create_once(path, b"second") == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_creators_that_race_end_with_the_same_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them find no file, and come to the link together."""
    racers = 4
    link_together(monkeypatch, racers)
    with ThreadPoolExecutor(racers) as pool:
        results = set(pool.map(lambda number: create_once(tmp_path / "key", bytes([number]) * 32), range(racers)))
    assert results == {(tmp_path / "key").read_bytes()}
    assert list(tmp_path.iterdir()) == [tmp_path / "key"]


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_crash_while_a_key_is_created_leaves_no_half_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def crash(*_: object) -> None:
        raise PowerLossError

    with monkeypatch.context() as patch:
        patch.setattr(os, step, crash)
        # A process that is killed does not clean up either.
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(PowerLossError):
            create_once(tmp_path / "key", b"lost")
    assert not (tmp_path / "key").exists()
    assert create_once(tmp_path / "key", b"second try") == b"second try"


def test_a_created_file_is_durable_for_the_loser_of_a_race_too(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "key").write_bytes(b"first")
    assert create_once(tmp_path / "key", b"second") == b"first"
    assert synced == ["folder"]


def test_an_exclusive_lock_excludes_every_other(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    assert not second.acquire()
    assert not second.acquire(shared=True, timeout_s=0.05)
    first.close()
    first.close()
    assert second.acquire(timeout_s=None)
    second.close()
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_shared_locks_exclude_only_an_exclusive_one(tmp_path: Path) -> None:
    first, second, third = (FileLock(tmp_path / "lock") for _ in range(3))
    assert first.acquire(shared=True)
    assert second.acquire(shared=True)
    assert not third.acquire()
    first.close()
    second.close()
    assert third.acquire()
    third.close()


def test_a_lock_is_a_context_manager_that_waits(tmp_path: Path) -> None:
    other = FileLock(tmp_path / "lock")
    order: list[str] = []

    def enter() -> None:
        with FileLock(tmp_path / "lock"):
            order.append("inside")

    with other:
        waiting = threading.Thread(target=enter)
        waiting.start()
        order.append("first")
    waiting.join(30)
    assert order == ["first", "inside"]


def test_the_content_of_a_lock_file_names_its_holder(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock") as lock:
        lock.write(b"a long name")
        lock.write(b"short")
    assert (tmp_path / "lock").read_bytes() == b"short"


def test_missing_folders_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    folder = tmp_path / "data" / "index"
    old = os.umask(0)
    try:
        private_folder(folder)
        private_folder(folder)
        private_file(folder / "a")
    finally:
        os.umask(old)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path, folder.parent, folder, folder / "a")] == [
        0o755,
        0o700,
        0o700,
        0o600,
    ]
    (folder / "a").write_text("kept")
    private_file(folder / "a")
    assert (folder / "a").read_text() == "kept"
    with pytest.raises(OSError, match="exists"):
        private_folder(folder / "a")


def test_a_lock_can_be_opened_by_its_owner_alone(tmp_path: Path) -> None:
    """An earlier release's, too, which everybody could open, and so lock."""
    path = tmp_path / "lock"
    for mode in (None, 0o666, 0o644):
        if mode is not None:
            path.chmod(mode)
        FileLock(path).close()
        assert path.stat().st_mode & 0o777 == 0o600
