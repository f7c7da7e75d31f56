"""Members of a tar file, read once and in order: compressed or not, one archive or several that `cat` joined."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, Self, cast

import pyarrow as pa

from indexer.sources.foreign import is_foreign
from indexer.sources.roots import Root, printable

MAX_HEADER_BYTES = 1024 * 1024
"""Maximum size of an extended header, in bytes; `tarfile` reads each of them into memory."""

MAX_PADDING_BYTES = 1024 * 1024 * 1024
"""Maximum number of zeros that end an archive, in bytes; compressed, there could be terabytes of them."""

_EXTENDED = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
"""Types of headers that describe other members."""


class DamagedArchive(Exception):
    """The archive ends early or is damaged; the members before it were yielded."""


_DAMAGE = (tarfile.TarError, EOFError, RecursionError, ValueError, zlib.error, lzma.LZMAError, OSError)
"""Errors of a damaged archive. `tarfile` raises a plain ValueError for numbers in headers of sparse files."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive.

    part: the number of the archive, from 0, of those that were joined. name: as it is stored, printable. data: its
    bytes, or None if they were not read. problem: why it cannot be used, or "".
    """

    part: int
    name: str
    data: bytes | None = None
    problem: str = ""


def read_members(root: Root, name: str, limit: Callable[[str], int]) -> Iterator[Member]:
    """Yield the files of an archive, without those that operating systems leave.

    limit: returns how many bytes of a member are read at most, 0 to skip it; a member that is longer has a problem.
    Raises DamagedArchive, or Unavailable if the root cannot be reached.
    """
    source: _Start | None = None
    try:
        with root.open(name) as file:
            source = _Start(file)
            with _decompressed(source) as plain:
                # `tarfile` calls nothing but `read`.
                yield from _members(cast(IO[bytes], _Bounded(plain)), limit)
    except _DAMAGE as error:
        if isinstance(error, OSError) and (source is None or source.failure is not None):
            root.require_reachable(name, error)
        raise DamagedArchive(str(error)) from error


def _members(plain: IO[bytes], limit: Callable[[str], int]) -> Iterator[Member]:
    marks = _Marks()
    # As a stream, "r|": it is read once, in order, and a remote file need not seek. Past zeros, as what `cat` joined
    # goes on behind the end marker of the first archive.
    with tarfile.open(fileobj=plain, mode="r|", tarinfo=_header_type(marks), ignore_zeros=True) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
            if not member.isdir():
                found = _member(archive, member, marks.part, limit)
                if found is not None:
                    yield found
    if not marks.ended:
        raise tarfile.ReadError("it has no end marker")


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo, part: int, limit: Callable[[str], int]) -> Member | None:
    """Return a member that is no folder; None if an operating system left it."""
    name = printable(member.name)
    # A `._NAME` file has the size of what it describes, at most some megabytes of a resource fork.
    start = _read(archive, member, 4) if name.rpartition("/")[2].startswith("._") and member.isfile() else b""
    if is_foreign(name, start):
        return None
    if not member.isfile():
        what = f"a link to {printable(member.linkname)}" if member.islnk() or member.issym() else "no regular file"
        return Member(part, name, problem=f"{name} is {what}: store the file itself")
    if name.rpartition("/")[2].startswith("."):
        return Member(part, name, problem=f"{name} is hidden, and hidden files are left out: rename it")
    most = limit(name)
    if member.size > most > 0:
        return Member(part, name, problem=f"{name} has {member.size:,} bytes; the limit is {most:,}")
    return Member(part, name, _read(archive, member, most) if most else None)


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> bytes:
    content = archive.extractfile(member)
    return content.read(size) if content is not None else b""


@dataclass(slots=True)
class _Marks:
    """Where a reader is. part: number of the archive. ended: whether the last block was of an end marker."""

    part: int = 0
    ended: bool = False
    padding_bytes: int = 0

    def note(self, block: bytes | bytearray) -> None:
        """Note a block in the place of a header."""
        if any(block):
            self.part += self.ended
            self.ended, self.padding_bytes = False, 0
        elif block:
            self.ended = True
            self.padding_bytes += len(block)


def _header_type(marks: _Marks) -> type[tarfile.TarInfo]:
    """Return a type of headers; a damaged one, or one that would fill the memory, raises ReadError.

    `tarfile` itself takes a damaged header for the archive's end, and the rest would be lost without notice.
    """

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
            marks.note(buf)
            if marks.padding_bytes > MAX_PADDING_BYTES:
                raise tarfile.ReadError(f"over {MAX_PADDING_BYTES:,} zeros follow its end")
            try:
                member = super().frombuf(buf, encoding, errors)
            except tarfile.HeaderError as error:
                if any(buf):
                    raise tarfile.ReadError(f"a member's header is no header: {error}") from error
                raise
            if member.type in _EXTENDED and not 0 <= member.size <= MAX_HEADER_BYTES:
                raise tarfile.ReadError(f"a header has {member.size:,} bytes; the limit is {MAX_HEADER_BYTES:,}")
            return member

    return Header


class _Bounded:
    """A stream that raises EOFError if it is read on and on behind its end.

    `tarfile` skips a member block by block, whatever number of bytes its header states.
    """

    def __init__(self, plain: IO[bytes]) -> None:
        self._plain = plain
        self._empty_reads = 0

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes."""
        data = self._plain.read(size)
        self._empty_reads = 0 if data else self._empty_reads + 1
        if self._empty_reads > _MAX_EMPTY_READS:
            raise EOFError("a member is longer than the rest of it")
        return data


_MAX_EMPTY_READS = 16
"""Reads behind the end that a whole archive may cause."""


class _Start(io.RawIOBase):
    """A file whose first bytes can be looked at. failure: the error of the file itself, not of its content."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self.failure: OSError | None = None
        self._file = file
        self._start = b""
        self._start = self.read(6)

    def readable(self) -> bool:
        """Implement `io.RawIOBase`."""
        return True

    def begins_with(self, magic: bytes) -> bool:
        """Return whether the file begins with `magic`, of at most 6 bytes; ask before anything is read."""
        return self._start.startswith(magic)

    def readinto(self, buffer: Any) -> int:
        """Implement `io.RawIOBase`."""
        size = len(buffer)
        if self._start:
            data, self._start = self._start[:size], self._start[size:]
        else:
            try:
                data = self._file.read(size)
            except OSError as error:
                self.failure = error
                raise
        buffer[: len(data)] = data
        return len(data)


_FORMATS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"),
}
"""Compressions by their first bytes. Each reads on where a file has several members, as `cat` and bgzip write them."""


@contextmanager
def _decompressed(file: _Start) -> Iterator[IO[bytes]]:
    """Yield the plain bytes of a file, whatever its name says of its compression."""
    opened = next((open_ for magic, open_ in _FORMATS.items() if file.begins_with(magic)), None)
    if opened is None:
        yield io.BufferedReader(file)
        return
    with opened(file) as plain:
        yield plain
