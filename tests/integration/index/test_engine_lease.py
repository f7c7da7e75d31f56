"""Who starts the embedded engine, who shares it, and when it ends."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from gmvaluator.errors import IndexUnavailable
from gmvaluator.files import FileLock
from gmvaluator.index.engine.launcher import CONTACT, ENGINE_LOCK, LOG, Contact, EngineLease
from gmvaluator.index.opening import open_store
from gmvaluator.testing.index import EXAMPLE_IDENTITY, example_points

ROOT = Path(__file__).parents[3]
LONG_S = 60


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(folder: Path) -> bool:
    with closing(FileLock(folder / ENGINE_LOCK)) as engine:
        return not engine.acquire()


def kill(lease: EngineLease) -> None:
    os.kill(lease.contact.pid, signal.SIGKILL)


def test_two_users_share_one_engine_until_the_last_goes(tmp_path: Path) -> None:
    first, second = EngineLease(tmp_path), EngineLease(tmp_path)
    assert first.contact == second.contact
    first.close()
    first.close()
    time.sleep(1)
    assert alive(tmp_path)
    second.close()
    wait_until(lambda: not alive(tmp_path))
    assert not (tmp_path / CONTACT).exists()


def test_a_folder_made_anew_belongs_to_its_own_engine(tmp_path: Path) -> None:
    """The first engine still ends while the second one runs, at the same path."""
    folder = tmp_path / "index"
    first = EngineLease(folder)
    os.kill(first.contact.pid, signal.SIGSTOP)
    first.close()
    shutil.rmtree(folder)
    with closing(EngineLease(folder)) as second:
        os.kill(first.contact.pid, signal.SIGCONT)
        wait_until(lambda: not Path(f"/proc/{first.contact.pid}").exists())
        assert Contact.read(folder) == second.contact
        with closing(EngineLease(folder, timeout_s=10)) as third:
            assert third.contact == second.contact


def test_users_that_come_at_once_start_one_engine(tmp_path: Path) -> None:
    leases: list[EngineLease] = []
    threads = [threading.Thread(target=lambda: leases.append(EngineLease(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({lease.contact.pid for lease in leases}) == 1
    for lease in leases:
        lease.close()


def test_a_user_that_comes_while_the_engine_ends_gets_another(tmp_path: Path) -> None:
    for pause_s in (0.0, 0.25):
        EngineLease(tmp_path).close()
        time.sleep(pause_s)
        with closing(open_store(tmp_path)) as store:
            store.create(EXAMPLE_IDENTITY)
            assert store.info().points == 0


def test_the_engine_ends_though_its_user_was_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from gmvaluator.index.engine.launcher import EngineLease\n"
        "lease = EngineLease(Path(sys.argv[1])); print(lease.contact.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as user:
        assert user.stdout is not None
        engine = int(user.stdout.readline())
        assert os.getsid(engine) != os.getsid(user.pid), "a Ctrl-C would reach it"
        user.kill()
    wait_until(lambda: not alive(tmp_path))


def test_a_stale_contact_is_not_trusted(tmp_path: Path) -> None:
    lease = EngineLease(tmp_path)
    kill(lease)
    lease.close()
    assert (tmp_path / CONTACT).exists()
    with closing(open_store(tmp_path)) as store:
        store.create(EXAMPLE_IDENTITY)
    for stale in (json.dumps({"socket": "/nowhere/x", "api_key": "x", "pid": 1}), "{"):
        wait_until(lambda: not alive(tmp_path))
        (tmp_path / CONTACT).write_text(stale)
        with closing(open_store(tmp_path)) as store:
            assert store.info().points == 0


def test_a_store_outlives_its_engine(tmp_path: Path) -> None:
    with closing(open_store(tmp_path)) as store:
        store.create(EXAMPLE_IDENTITY)
        store.upsert(example_points(20))
        before = Contact.read(tmp_path)
        assert before is not None
        os.kill(before.pid, signal.SIGKILL)
        assert store.info().points == 20
        after = Contact.read(tmp_path)
        assert after is not None
        assert after.pid != before.pid


def test_sigterm_ends_it_in_order(tmp_path: Path) -> None:
    with closing(open_store(tmp_path)) as store:
        store.create(EXAMPLE_IDENTITY)
        contact = Contact.read(tmp_path)
        assert contact is not None
        os.kill(contact.pid, signal.SIGTERM)
        wait_until(lambda: not alive(tmp_path))
        assert (tmp_path / LOG).read_text().endswith("ended\n")
        assert store.info().points == 0


def test_the_contact_is_for_its_owner_only(tmp_path: Path) -> None:
    lease = EngineLease(tmp_path)
    assert (tmp_path / CONTACT).stat().st_mode & 0o777 == 0o600
    assert lease.contact.api_key not in repr(lease.contact)
    lease.close()


def test_the_files_of_an_index_are_for_their_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with closing(open_store(tmp_path / "data" / "index")) as store:
            store.create(EXAMPLE_IDENTITY)
            store.upsert(example_points(20))
            store.build()
            files = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
            assert len(files) > 20
            assert not [path for path in files if open_to_others(path)]
    finally:
        os.umask(old)


def open_to_others(path: Path) -> bool:
    """Return True if others may use the file; one that the engine replaced meanwhile is closed."""
    try:
        return not path.is_socket() and bool(path.stat().st_mode & 0o077)
    except FileNotFoundError:
        return False


def listening_inodes() -> set[str]:
    """Inodes of the sockets on this machine that listen on TCP."""
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    return {fields[9] for table in tables for fields in map(str.split, table) if fields[3] == "0A"}


def test_nobody_else_can_take_the_place_of_an_engine_that_died(tmp_path: Path) -> None:
    """It listens on no port, and its socket is where only its user can put one."""
    with closing(EngineLease(tmp_path)) as lease:
        contact = lease.contact
        assert contact.socket.is_socket()
        assert contact.socket.parent.stat().st_mode & 0o777 == 0o700
        files = Path(f"/proc/{contact.pid}/fd").iterdir()
        sockets = {str(file.readlink()).removeprefix("socket:[").rstrip("]") for file in files}
        assert not sockets & listening_inodes()
        kill(lease)
        renewed = lease.renew(contact)
        assert renewed.socket != contact.socket
        assert not contact.socket.exists()


def test_a_socket_that_others_could_have_made_is_sent_nothing(tmp_path: Path) -> None:
    open_folder = tmp_path / "open"
    open_folder.mkdir(mode=0o755)
    with socket.socket(socket.AF_UNIX) as listening, FileLock(tmp_path / ENGINE_LOCK):
        listening.bind(str(open_folder / "s"))
        listening.listen()
        listening.settimeout(0)
        Contact(open_folder / "s", "secret", os.getpid()).write(tmp_path)
        with pytest.raises(IndexUnavailable, match="open to other users"):
            EngineLease(tmp_path, timeout_s=5)
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_a_folder_whose_path_is_too_long_for_a_socket_works(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 25)
    with closing(EngineLease(folder)) as lease:
        elsewhere = lease.contact.socket.parent
        assert folder not in elsewhere.parents
        assert elsewhere.stat().st_mode & 0o777 == 0o700
    wait_until(lambda: not alive(folder))
    assert not elsewhere.exists()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IndexUnavailable, match="cannot be used"):
        open_store(tmp_path / "file")


def test_an_engine_that_cannot_start_is_explained(tmp_path: Path) -> None:
    (tmp_path / "works").mkdir()
    (tmp_path / "works" / "CURRENT").write_text("nonsense")
    with pytest.raises(IndexUnavailable, match=r"(?s)engine\.log.*damaged"):
        EngineLease(tmp_path)
