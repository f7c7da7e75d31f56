"""Root folders of sources, on this machine or behind any fsspec URL (s3://, gs://, hf://, memory://, ...).

Names of files are relative to the root, and a name that leads out of it is refused.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import time
import unicodedata
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import fsspec

from gmvaluator.errors import GmvaluatorError, InvalidInput, MissingData, Unavailable
from indexer.sources.item import Unreadable, read_bounded

_PAUSES_S = (1.0, 4.0)
"""Seconds before each retry of a remote file."""

_OF_ONE_FILE = (FileNotFoundError, PermissionError, IsADirectoryError)
"""Errors of a remote filesystem that concern one file; every other error counts as an outage."""


class Root(Protocol):
    """A folder of files. Names are relative to it, with forward slashes."""

    @property
    def url(self) -> str: ...

    def files(self) -> Iterator[str | Unreadable]:
        """Yield every file below the root, in no order; hidden files and folders are left out."""

    def refusal(self, name: str) -> str:
        """Return the reason why the file `name` must not be opened, or ""."""

    def open(self, name: str) -> BinaryIO: ...

    def uri(self, name: str) -> str: ...

    def is_file(self, name: str) -> bool: ...

    def fingerprint(self, name: str) -> str:
        """Return a text that differs once the file may have changed."""

    def require_reachable(self, name: str, error: Exception) -> None:
        """Raise Unavailable if the error of the file `name` would occur for every other file too."""


class WatchedFile:
    """A file for a reader whose errors of the content are OSErrors, too. failure: the error of the file itself."""

    def __init__(self, file: BinaryIO) -> None:
        self.failure: OSError | None = None
        self._file = file

    def read(self, *size: int) -> bytes:
        """Read bytes."""
        try:
            return self._file.read(*size)
        except OSError as error:
            self.failure = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def read_file(root: Root, name: str) -> bytes:
    """Read an image file, up to one byte over the decoder's limit; retry a remote file twice.

    Raises OSError if this file cannot be read, or Unavailable if none can: during an outage the images that are left
    must not be counted as rejects.
    """
    for pause_s in (*_PAUSES_S, None):
        try:
            with root.open(name) as file:
                return read_bounded(file.read)
        except GmvaluatorError:
            raise
        except Exception as error:  # noqa: BLE001 - fsspec filesystems raise errors of any type
            try:
                root.require_reachable(name, error)
            except Unavailable:
                if pause_s is None:
                    raise
                time.sleep(pause_s)
            else:
                raise
    raise AssertionError("unreachable")


def is_remote(location: str) -> bool:
    """Return whether a location is a URL of another file system than this machine's."""
    return "://" in location and not location.startswith("file://")


def local_path(location: str) -> Path:
    """Return the path of a location that is not remote."""
    return Path(location.removeprefix("file://"))


def is_there(path: Path) -> bool:
    """Return whether a path exists; one that no file can have, such as a pattern of thousands of digits, does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def open_root(location: str, named: Collection[str] = ()) -> Root:
    """Open a local folder or an fsspec URL of a folder.

    named: files that the user names, which may be links out of the folder, as in the cache of Hugging Face. Raises
    MissingData, or InvalidInput for a bad URL.
    """
    if not is_remote(location):
        folder = local_path(location)
        if not folder.is_dir():
            raise MissingData(f"{location} is no folder: give the folder that holds the images")
        return LocalRoot(folder, frozenset(named))
    return _remote(location)


def _remote(location: str) -> Root:
    """Open an fsspec URL. Raises InvalidInput, MissingData, Unavailable."""
    protocol = location.split("://", 1)[0].split("::")[0]
    try:
        filesystem, path = fsspec.core.url_to_fs(location)
    except ImportError as error:
        raise InvalidInput(f"{location} needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise InvalidInput(f"{location}: {error}; known: {', '.join(sorted(fsspec.available_protocols()))}") from error
    except Exception as error:
        raise InvalidInput(f"{location} cannot be opened ({_reason(error)}): check the address") from error
    root = RemoteRoot(filesystem, path.rstrip("/"), protocol)
    with root.reached():
        if not filesystem.isdir(path):
            raise MissingData(f"{location} is no folder: give the folder that holds the images")
    return root


@dataclass(frozen=True, slots=True)
class LocalRoot:
    """A folder of this machine; symbolic links that lead out of it are refused, except those in `named`."""

    folder: Path
    named: frozenset[str] = frozenset()

    @property
    def url(self) -> str:
        return str(self.folder.resolve())

    def files(self) -> Iterator[str | Unreadable]:
        errors: list[OSError] = []
        for folder, folders, names in os.walk(self.folder, onerror=errors.append):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in folders:
                path = os.path.join(folder, name)  # noqa: PTH118 - as below
                if os.path.islink(path):  # noqa: PTH114
                    reason = "it is a link to a folder, which is not followed: index that folder by itself"
                    yield Unreadable(printable(self._relative(path)), reason)
            yield from (self._relative(os.path.join(folder, name)) for name in names if not name.startswith("."))  # noqa: PTH118 - half the time of a Path, for millions
        for error in errors:
            yield Unreadable(printable(self._relative(error.filename)), f"the folder cannot be read: {error.strerror}")

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self.folder).replace(os.sep, "/")

    def refusal(self, name: str) -> str:
        if printable(name) != name:
            return "its name is not UTF-8: rename it"
        if "\0" in name or not (name in self.named or self._inside(self._path(name))):
            return f"it leads outside {self.folder}"
        return ""

    def _inside(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self.folder.resolve())
        except (OSError, RuntimeError):
            return False  # a cycle of symbolic links

    def open(self, name: str) -> BinaryIO:
        # Without waiting: opening a named pipe waits for its writer, maybe for ever.
        descriptor = os.open(self._path(name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise

    def _path(self, name: str) -> Path:
        """Return where a file is: macOS spells names in NFD, and manifests written elsewhere name them in NFC."""
        path = self.folder / name
        if not name.isascii() and not is_there(path):
            for form in ("NFC", "NFD"):
                other = self.folder / unicodedata.normalize(form, name)
                if is_there(other):
                    return other
        return path

    def uri(self, name: str) -> str:
        return self._path(name).resolve().as_uri()

    def is_file(self, name: str) -> bool:
        return not self.refusal(name) and self._path(name).is_file()

    def fingerprint(self, name: str) -> str:
        status = self._path(name).stat()
        return f"{status.st_size}-{status.st_mtime_ns}"

    def require_reachable(self, name: str, error: Exception) -> None:
        """Do nothing: errors of a local disk concern single files."""


@dataclass(frozen=True, slots=True)
class RemoteRoot:
    """A folder behind an fsspec filesystem."""

    filesystem: Any
    path: str
    protocol: str

    @property
    def url(self) -> str:
        return f"{self.protocol}://{self.path.lstrip('/')}"

    def files(self) -> Iterator[str | Unreadable]:
        with self.reached():
            paths = self.filesystem.find(self.path)
        for path in paths:
            name = posixpath.relpath(path, self.path)
            if not any(part.startswith(".") for part in name.split("/")):
                yield name

    def refusal(self, name: str) -> str:
        normal = posixpath.normpath(posixpath.join("/root", name))
        return "" if normal.startswith("/root/") and "\0" not in name else f"it leads outside {self.url}"

    def open(self, name: str) -> BinaryIO:
        file: BinaryIO = self.filesystem.open(self._full(name), "rb")
        return file

    def _full(self, name: str) -> str:
        return posixpath.join(self.path, name)

    def uri(self, name: str) -> str:
        return f"{self.url}/{name}"

    def is_file(self, name: str) -> bool:
        with self.reached():
            return not self.refusal(name) and bool(self.filesystem.isfile(self._full(name)))

    def fingerprint(self, name: str) -> str:
        with self.reached():
            return str(self.filesystem.ukey(self._full(name)))[:64]

    def require_reachable(self, name: str, error: Exception) -> None:
        if not isinstance(error, _OF_ONE_FILE):
            raise Unavailable(
                f"{self.uri(name)} cannot be reached ({error}): once it can, give the same command again to go on"
            ) from error

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Translate errors of the remote filesystem into Unavailable."""
        try:
            yield
        except GmvaluatorError:
            raise
        except Exception as error:
            raise Unavailable(
                f"{self.url} cannot be read ({_reason(error)}): check its address, your access and the network"
            ) from error


def _reason(error: Exception) -> str:
    """Return the first line of an error's text, or its type's name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def printable(name: str) -> str:
    """Return a file's name as valid UTF-8; bytes that are not UTF-8 become \\x escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
