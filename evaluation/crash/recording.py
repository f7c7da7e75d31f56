"""A layer under SQLite that records what reaches the disk: each write, truncation, removal and fsync, in order.

It replaces the entry points of the default VFS of the very library that Python's sqlite3 uses, so what is recorded is
what the product's own connections do. One recording at a time in a process.
"""

from __future__ import annotations

import _sqlite3
import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
