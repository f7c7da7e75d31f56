"""Simulated power losses of the ledger, with unsynced writes dropped or torn.

Every write, truncation, deletion and fsync of a posting loop is recorded below SQLite. A crash image is the disk as
it may look after a power loss between two of these events: it has everything that was synced; every other write is
present, missing, or present in some of its sectors. Each image must open, pass SQLite's integrity check, and contain
every posting that had been acknowledged.

The recorder replaces entry points of the default VFS of the library that Python's sqlite3 is linked with, so it records
the product's own connections. A process can make one recording at a time.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import random
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy.exc import DBAPIError

from gmvaluator.errors import GmvaluatorError
from gmvaluator.ledger.results import Posted
from gmvaluator.ledger.store import Ledger, ledger_file, open_ledger
from gmvaluator.testing.postings import sample_posting

_OK = 0

_Pointer = ctypes.c_void_p
# The name is a pointer, not a string: SQLite stores URI parameters behind its end.
_Open = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, _Pointer, ctypes.c_int, _Pointer)
_Delete = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, ctypes.c_int)
_Write = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, ctypes.c_int, ctypes.c_int64)
_Truncate = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, ctypes.c_int64)
_Sync = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, ctypes.c_int)


class _Vfs(ctypes.Structure):
    """The first fields of `sqlite3_vfs`."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("file_size", ctypes.c_int),
        ("max_path", ctypes.c_int),
        ("next", _Pointer),
        ("name", ctypes.c_char_p),
        ("data", _Pointer),
        ("open", _Open),
        ("delete", _Delete),
    )


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods`, version 3."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("close", _Pointer),
        ("read", _Pointer),
        ("write", _Write),
        ("truncate", _Truncate),
        ("sync", _Sync),
        ("others", _Pointer * 13),
    )


@dataclass(frozen=True, slots=True)
class Event:
    """A recorded event.

    file: name in the recorded folder, or the text of a "mark". offset: position of a "write", new length of a
    "truncate". data: bytes of a "write". durable: whether a "delete" was synced.
    """

    kind: Literal["open", "write", "truncate", "sync", "delete", "mark"]
    file: str
    offset: int = 0
    data: bytes = b""
    durable: bool = False


class Recorder:
    """A recorder of the events of the files in one folder."""

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self._folder = folder
        self._names: dict[int, str] = {}
        # SQLite holds pointers into these objects.
        self._referenced: list[Any] = []

    def mark(self, text: str) -> None:
        """Record a mark between the other events, such as an acknowledgement."""
        self.events.append(Event("mark", text))

    def opened(self, name: int | None, file: int) -> None:
        """Start to record an open file if it is in the folder. A temporary file has no name."""
        path = Path(ctypes.string_at(name).decode()) if name else Path()
        if path.parent != self._folder:
            return
        self._names[file] = path.name
        self.events.append(Event("open", path.name))
        methods = ctypes.cast(file, ctypes.POINTER(ctypes.POINTER(_Methods)))
        methods[0] = ctypes.pointer(self._recording(methods[0].contents))

    def removed(self, name: int, durable: bool) -> None:
        """Record the deletion of a file if it was in the folder."""
        path = Path(ctypes.string_at(name).decode())
        if path.parent == self._folder:
            self.events.append(Event("delete", path.name, durable=durable))

    def _recording(self, real: _Methods) -> _Methods:
        """Return the methods of a file, with those that change it replaced by recording ones."""
        copy = _Methods.from_buffer_copy(real)

        def write(file: int, data: int, size: int, offset: int) -> int:
            self.events.append(Event("write", self._names[file], offset, ctypes.string_at(data, size)))
            return int(real.write(file, data, size, offset))

        def truncate(file: int, size: int) -> int:
            self.events.append(Event("truncate", self._names[file], size))
            return int(real.truncate(file, size))

        def sync(file: int, flags: int) -> int:
            code = int(real.sync(file, flags))
            if code == _OK:
                self.events.append(Event("sync", self._names[file]))
            return code

        copy.write, copy.truncate, copy.sync = _Write(write), _Truncate(truncate), _Sync(sync)
        self._referenced += [real, copy, copy.write, copy.truncate, copy.sync]
        return copy


@contextmanager
def recorded(folder: Path) -> Iterator[Recorder]:
    """Record what SQLite does to the files in `folder`. Connections must be closed before the context ends."""
    recorder = Recorder(folder)
    vfs = _default_vfs()
    real_open, real_delete = _entry(vfs.open, _Open), _entry(vfs.delete, _Delete)

    def opening(this: int, name: int | None, file: int, flags: int, out: int) -> int:
        code = int(real_open(this, name, file, flags, out))
        if code == _OK:
            recorder.opened(name, file)
        return code

    def deleting(this: int, name: int, sync_folder: int) -> int:
        code = int(real_delete(this, name, sync_folder))
        if code == _OK:
            recorder.removed(name, bool(sync_folder))
        return code

    ours = _Open(opening), _Delete(deleting)
    vfs.open, vfs.delete = ours
    try:
        yield recorder
    finally:
        vfs.open, vfs.delete = real_open, real_delete


def _default_vfs() -> _Vfs:
    # Looked up through the extension module, which finds the library that it is linked with.
    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    vfs: _Vfs = library.sqlite3_vfs_find(None).contents
    return vfs


def _entry(function: Any, kind: Callable[[int], Any]) -> Any:
    """Return the C function that a structure's field points at now."""
    # A field read from the structure would follow later assignments to it.
    return kind(ctypes.cast(function, _Pointer).value or 0)


SECTOR = 512
"""Bytes that a disk writes atomically."""

CHECKPOINT_PAGES = 60
"""Interval of the recorded loop's checkpoints, in pages; short, so that many images fall into a checkpoint."""

LARGEST_BATCH = 6
"""Postings per batch, at most."""


@dataclass(slots=True)
class File:
    """A file: its content as of the last sync, and the events since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)
    synced: bool = False

    def sync(self) -> None:
        """Make the pending events durable."""
        for event in self.pending:
            _apply(self.durable, event, event.data)
        self.pending.clear()
        self.synced = True


@dataclass(slots=True)
class Disk:
    """The files of a folder and the acknowledged postings at one moment."""

    files: dict[str, File] = field(default_factory=dict)
    removing: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)

    def apply(self, event: Event) -> None:
        """Apply the next event."""
        if event.kind == "mark":
            self.acknowledged.append(event.file)
        elif event.kind == "delete":
            self._delete(event)
        elif event.kind == "sync":
            self._sync(event.file)
        else:
            file = self.files.setdefault(event.file, File())
            if event.kind != "open":
                file.pending.append(event)
            if event.file in self.removing:
                self.removing.remove(event.file)

    def image(self, chance: random.Random) -> dict[str, bytes]:
        """Return one possible content of the files after a power loss now."""
        kept_share = chance.choice((0.0, 0.0, 0.5, 0.9))
        contents: dict[str, bytes] = {}
        for name, file in self.files.items():
            content = bytearray(file.durable)
            for event in file.pending:
                if chance.random() < kept_share:
                    _apply(content, event, event.data)
                elif kept_share and event.kind == "write":
                    _tear(content, event, chance)
            removed = name in self.removing and chance.random() < 0.5
            if not removed and (file.synced or chance.random() < 0.5):
                contents[name] = bytes(content)
        return contents

    def _sync(self, name: str) -> None:
        file = self.files.setdefault(name, File())
        if not file.synced and name.endswith(("-journal", "-wal")):
            # SQLite syncs the folder with the first fsync of a new log, which makes earlier deletions durable.
            for removed in self.removing:
                self.files.pop(removed, None)
            self.removing.clear()
        file.sync()

    def _delete(self, event: Event) -> None:
        if event.durable:
            self.files.pop(event.file, None)
        elif event.file in self.files:
            self.removing.append(event.file)


def run_power_loss(images: int, seed: int, postings: int = 240, synchronous: str = "FULL") -> dict[str, Any]:
    """Check `images` crash images of a recorded loop of `postings` postings, and return the figures.

    synchronous: SQLite's setting. The product uses FULL; a lower one shows that the check detects lost postings.
    """
    chance = random.Random(seed)  # noqa: S311 - repeatable
    with tempfile.TemporaryDirectory(prefix="gmvaluator-power-") as folder:
        events = record_loop(Path(folder), postings, chance, synchronous)
    moments = sorted(chance.choices(range(len(events)), k=images))
    failures: list[str] = []
    unsynced = 0
    for moment, disk in _disks(events, moments):
        unsynced += sum(len(file.pending) for file in disk.files.values())
        problems = check_image(disk.image(chance), disk.acknowledged)
        failures += [f"moment {moment}: {'; '.join(problems)}"] if problems else []
    syncs = sum(event.kind == "sync" for event in events)
    return {
        "crash_images": images,
        "crash_images_ok": images - len(failures),
        "seed": seed,
        "recorded_writes": sum(event.kind == "write" for event in events),
        "recorded_fsyncs": syncs,
        "recorded_checkpoints": sum(event.kind == "sync" and event.file == "ledger.sqlite" for event in events),
        "unsynced_writes_per_image": unsynced / images,
        "failures": failures[:10],
    }


def record_loop(folder: Path, postings: int, chance: random.Random, synchronous: str = "FULL") -> list[Event]:
    """Record the creation of a ledger in `folder` and its postings; each acknowledgement is a mark."""
    with recorded(folder) as recorder, open_ledger(folder, write=True) as ledger:
        _set(ledger, synchronous)
        posted = 0
        while posted < postings:
            batch = [sample_posting(number) for number in range(posted, posted + chance.randint(1, LARGEST_BATCH))]
            for outcome in ledger.post(batch):
                assert isinstance(outcome, Posted)
                recorder.mark(f"{outcome.posting.sequence} {outcome.posting.hash}")
            posted += len(batch)
    return recorder.events


def check_image(image: dict[str, bytes], acknowledged: Sequence[str]) -> list[str]:
    """Return the problems of a crash image; none if it is what a power loss may leave."""
    with tempfile.TemporaryDirectory(prefix="gmvaluator-power-") as name:
        folder = Path(name)
        for file, content in image.items():
            (folder / file).write_bytes(content)
        try:
            return list(_problems(folder, acknowledged))
        except (GmvaluatorError, DBAPIError) as error:
            return [f"it cannot be read: {error}"]


def _problems(folder: Path, acknowledged: Sequence[str]) -> Iterator[str]:
    with open_ledger(folder, write=True) as ledger:
        verification = ledger.verify()
        if not (verification.ok and ledger.totals().reconciles):
            yield verification.text()
        stored = {f"{posting.sequence} {posting.hash}" for posting in ledger.every_posting()}
    lost = [posting for posting in acknowledged if posting not in stored]
    if lost:
        yield f"{len(lost)} acknowledged postings are lost, first {lost[0]}"
    integrity = _integrity(folder)
    if integrity != "ok":
        yield f"integrity_check: {integrity}"


def _disks(events: Sequence[Event], moments: Sequence[int]) -> Iterator[tuple[int, Disk]]:
    """Yield the disk as of just before each of `moments`, which must ascend."""
    disk, applied = Disk(), 0
    for moment in moments:
        for event in events[applied:moment]:
            disk.apply(event)
        applied = moment
        yield moment, disk


def _apply(content: bytearray, event: Event, data: bytes, start: int = 0) -> None:
    if event.kind == "truncate":
        del content[event.offset :]
        return
    offset = event.offset + start
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _tear(content: bytearray, event: Event, chance: random.Random) -> None:
    """Apply a random selection of the sectors that a write covers."""
    for start in range(0, len(event.data), SECTOR):
        if chance.random() < 0.5:
            _apply(content, event, event.data[start : start + SECTOR], start)


def _set(ledger: Ledger, synchronous: str) -> None:
    # The product offers no setting for either: FULL is the only one it may run with.
    driver = ledger._database.writer.raw_connection().driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    driver.execute(f"PRAGMA synchronous = {synchronous}")


def _integrity(folder: Path) -> str:
    connection = sqlite3.connect(ledger_file(folder))
    (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    return str(answer)
