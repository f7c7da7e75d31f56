"""Power loss: the disk as it may look when the current goes at any moment, with unsynced writes dropped or torn.

A posting loop is recorded below SQLite. An image is then built for a moment between two of its writes: what was synced
by then is there; of what was not, each write is there, is missing, or is there in part, sector by sector. Every image
must open, pass SQLite's own integrity check, and hold every posting that was acknowledged by then.

A layer under SQLite that records what reaches the disk: each write, truncation, removal and fsync, in order.

It replaces the entry points of the default VFS of the very library that Python's sqlite3 uses, so what is recorded is
what the product's own connections do. One recording at a time in a process.
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
# The name stays a pointer: SQLite keeps more behind the string than the string.
_Open = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, _Pointer, ctypes.c_int, _Pointer)
_Delete = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, ctypes.c_int)
_Write = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, ctypes.c_int, ctypes.c_int64)
_Truncate = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, ctypes.c_int64)
_Sync = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, ctypes.c_int)


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs`, as far as it is needed."""

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
    """One thing that happened. file: name in the recorded folder; of "mark", what was marked.

    offset, data: of a write. offset: of "truncate", the new length. durable: of "delete", whether it was synced.
    """

    kind: Literal["open", "write", "truncate", "sync", "delete", "mark"]
    file: str
    offset: int = 0
    data: bytes = b""
    durable: bool = False


class Recorder:
    """Events under one folder."""

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self._folder = folder
        self._names: dict[int, str] = {}
        # The C side holds pointers into these.
        self._kept: list[Any] = []

    def mark(self, text: str) -> None:
        """Note, between the writes and fsyncs, that something became true now."""
        self.events.append(Event("mark", text))

    def opened(self, name: int | None, file: int) -> None:
        """Take over an open file, if it is one of the folder's; a temporary one has no name."""
        path = Path(ctypes.string_at(name).decode()) if name else Path()
        if path.parent != self._folder:
            return
        self._names[file] = path.name
        self.events.append(Event("open", path.name))
        methods = ctypes.cast(file, ctypes.POINTER(ctypes.POINTER(_Methods)))
        methods[0] = ctypes.pointer(self._recording(methods[0].contents))

    def removed(self, name: int, durable: bool) -> None:
        """A file of any folder was deleted."""
        path = Path(ctypes.string_at(name).decode())
        if path.parent == self._folder:
            self.events.append(Event("delete", path.name, durable=durable))

    def _recording(self, real: _Methods) -> _Methods:
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
        self._kept += [real, copy, copy.write, copy.truncate, copy.sync]
        return copy


@contextmanager
def recorded(folder: Path) -> Iterator[Recorder]:
    """Record what SQLite does to the files of `folder`; close its connections before this ends."""
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
    found: _Vfs = library.sqlite3_vfs_find(None).contents
    return found


def _entry(function: Any, kind: Callable[[int], Any]) -> Any:
    """The C function itself: a field read from a structure would follow what is assigned to it later."""
    return kind(ctypes.cast(function, _Pointer).value or 0)


SECTOR = 512
CHECKPOINT_PAGES = 60
"""The recorded loop checkpoints this often, so that many images fall into checkpoints."""

LARGEST_BATCH = 6


@dataclass(slots=True)
class File:
    """One file: its bytes as last synced, and what was done to it since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Event] = field(default_factory=list)
    synced: bool = False

    def sync(self) -> None:
        """All that was done is durable."""
        for event in self.pending:
            _apply(self.durable, event, event.data)
        self.pending.clear()
        self.synced = True


@dataclass(slots=True)
class Disk:
    """The files of a folder, and what was acknowledged, at one moment."""

    files: dict[str, File] = field(default_factory=dict)
    removing: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Let one more thing happen."""
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
        """One way these files may look after the power went."""
        kept = chance.choice((0.0, 0.0, 0.5, 0.9))
        found: dict[str, bytes] = {}
        for name, file in self.files.items():
            content = bytearray(file.durable)
            for event in file.pending:
                if chance.random() < kept:
                    _apply(content, event, event.data)
                elif kept and event.kind == "write":
                    _tear(content, event, chance)
            removed = name in self.removing and chance.random() < 0.5
            if not removed and (file.synced or chance.random() < 0.5):
                found[name] = bytes(content)
        return found

    def _sync(self, name: str) -> None:
        file = self.files.setdefault(name, File())
        if not file.synced and name.endswith(("-journal", "-wal")):
            # With the first fsync of a log that it made, SQLite syncs the folder: what it removed stays removed.
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
    """Build and check `images` crash images of a recorded loop of `postings` postings. Figures of the outcome.

    synchronous: SQLite's setting; less than FULL, which the product uses, is there to see images fail.
    """
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="gmvaluator-power-") as folder:
        events = record_loop(Path(folder), postings, chance, synchronous)
    moments = sorted(chance.choices(range(len(events)), k=images))
    failures: list[str] = []
    unsynced = 0
    for moment, disk in _disks(events, moments):
        unsynced += sum(len(file.pending) for file in disk.files.values())
        wrong = check_image(disk.image(chance), disk.acknowledged)
        failures += [f"moment {moment}: {'; '.join(wrong)}"] if wrong else []
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
    """What happens below SQLite while a ledger is made and written; each acknowledgement is a mark."""
    with recorded(folder) as recorder, open_ledger(folder, write=True) as ledger:
        _set(ledger, synchronous)
        number = 0
        while number < postings:
            batch = [sample_posting(one) for one in range(number, number + chance.randint(1, LARGEST_BATCH))]
            for outcome in ledger.post(batch):
                assert isinstance(outcome, Posted)
                recorder.mark(f"{outcome.posting.sequence} {outcome.posting.hash}")
            number += len(batch)
    return recorder.events


def check_image(image: dict[str, bytes], acknowledged: Sequence[str]) -> list[str]:
    """What is wrong with an image; nothing, if it may be what a power loss leaves."""
    with tempfile.TemporaryDirectory(prefix="gmvaluator-power-") as name:
        folder = Path(name)
        for file, content in image.items():
            (folder / file).write_bytes(content)
        try:
            return list(_wrong(folder, acknowledged))
        except (GmvaluatorError, DBAPIError) as error:
            return [f"it cannot be read: {error}"]


def _wrong(folder: Path, acknowledged: Sequence[str]) -> Iterator[str]:
    with open_ledger(folder, write=True) as ledger:
        found = ledger.verify()
        if not (found.ok and ledger.totals().reconciles):
            yield found.text()
        stored = {f"{one.sequence} {one.hash}" for one in ledger.every_posting()}
    lost = [one for one in acknowledged if one not in stored]
    if lost:
        yield f"{len(lost)} acknowledged postings are lost, first {lost[0]}"
    integrity = _integrity(folder)
    if integrity != "ok":
        yield f"integrity_check: {integrity}"


def _disks(events: Sequence[Event], moments: Sequence[int]) -> Iterator[tuple[int, Disk]]:
    """The disk just before each of `moments`, which ascend."""
    disk, happened = Disk(), 0
    for moment in moments:
        for event in events[happened:moment]:
            disk.take(event)
        happened = moment
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
    """Keep some of the sectors that a write covers."""
    for start in range(0, len(event.data), SECTOR):
        if chance.random() < 0.5:
            _apply(content, event, event.data[start : start + SECTOR], start)


def _set(ledger: Ledger, synchronous: str) -> None:
    driver = ledger._database.writer.raw_connection().driver_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    driver.execute(f"PRAGMA synchronous = {synchronous}")


def _integrity(folder: Path) -> str:
    connection = sqlite3.connect(ledger_file(folder))
    (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
    connection.close()
    return str(answer)
