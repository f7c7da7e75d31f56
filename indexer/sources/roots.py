"""Folders that sources lie in, on this machine or behind any fsspec URL (s3://, gs://, hf://, memory://, ...).

Every name is relative to the root and stays inside it.
"""

from __future__ import annotations

import os
import posixpath
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import fsspec

from gmvaluator.errors import GmvaluatorError, InvalidInput, MissingData, Unavailable
from indexer.sources.item import Unreadable, read_bounded

_PAUSES_S = (1.0, 4.0)
"""Before a remote file is tried again."""

_OF_ONE_FILE = (FileNotFoundError, PermissionError, IsADirectoryError)
"""What a remote filesystem says of one file; anything else is taken for an outage."""


class Root(Protocol):
    """A folder. Names are relative, with forward slashes."""

    @property
    def url(self) -> str: ...

    def files(self) -> Iterator[str | Unreadable]:
        """Every file below, in no order; hidden files and folders are left out."""

    def refusal(self, name: str) -> str:
        """Why the file `name` may not be opened, or ""."""

    def open(self, name: str) -> BinaryIO: ...

    def uri(self, name: str) -> str: ...

    def is_file(self, name: str) -> bool: ...

    def fingerprint(self, name: str) -> str:
        """Differs once the file may have changed."""

    def require_reachable(self, name: str, error: Exception) -> None:
        """Raises Unavailable if what happened to the file `name` would happen to all others too."""


def read_file(root: Root, name: str) -> bytes:
    """An image file's bytes, as many as the decoder may see; a remote one is tried three times.

    Raises OSError of this file, or Unavailable if none can be reached: an outage must not make every image that is left
    a reject.
    """
    for pause_s in (*_PAUSES_S, None):
        try:
            with root.open(name) as file:
                return read_bounded(file.read)
        except GmvaluatorError:
            raise
        except Exception as error:  # noqa: BLE001 - filesystems of others raise what they like
            try:
                root.require_reachable(name, error)
            except Unavailable:
                if pause_s is None:
                    raise
                time.sleep(pause_s)
            else:
                raise
    raise AssertionError("unreachable")


def open_root(location: str) -> Root:
    """A local folder or an fsspec URL of a folder. Raises MissingData, or InvalidInput if the URL cannot be used."""
    if "://" not in location or location.startswith("file://"):
        folder = Path(location.removeprefix("file://"))
        if not folder.is_dir():
            raise MissingData(f"{location} is no folder: give the folder that holds the images")
        return LocalRoot(folder)
    return _remote(location)


def _remote(location: str) -> Root:
    protocol = location.split("://", 1)[0].split("::")[0]
    try:
        filesystem, path = fsspec.core.url_to_fs(location)
    except ImportError as error:
        raise InvalidInput(f"{location} needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise InvalidInput(f"{location}: {error}; known: {', '.join(sorted(fsspec.available_protocols()))}") from error
    root = RemoteRoot(filesystem, path.rstrip("/"), protocol)
    with root.reached():
        if not filesystem.isdir(path):
            raise MissingData(f"{location} is no folder: give the folder that holds the images")
    return root


@dataclass(frozen=True, slots=True)
class LocalRoot:
    """A folder of this machine; links that lead out of it are not followed."""

    folder: Path

    @property
    def url(self) -> str:
        return str(self.folder.resolve())

    def files(self) -> Iterator[str | Unreadable]:
        closed: list[OSError] = []
        for folder, folders, names in os.walk(self.folder, onerror=closed.append):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in folders:
                path = os.path.join(folder, name)  # noqa: PTH118 - as below
                if os.path.islink(path):  # noqa: PTH114
                    reason = "it is a link to a folder, which is not followed: index that folder by itself"
                    yield Unreadable(printable(self._relative(path)), reason)
            yield from (self._relative(os.path.join(folder, name)) for name in names if not name.startswith("."))  # noqa: PTH118 - half the time of a Path, for millions
        for error in closed:
            yield Unreadable(printable(self._relative(error.filename)), f"the folder cannot be read: {error.strerror}")

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self.folder).replace(os.sep, "/")

    def refusal(self, name: str) -> str:
        if printable(name) != name:
            return "its name is not UTF-8: rename it"
        if "\0" in name or not self._inside(self.folder / name):
            return f"it leads outside {self.folder}"
        return ""

    def _inside(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self.folder.resolve())
        except (OSError, RuntimeError):
            return False  # links in a circle lead nowhere

    def open(self, name: str) -> BinaryIO:
        return (self.folder / name).open("rb")

    def uri(self, name: str) -> str:
        return (self.folder / name).resolve().as_uri()

    def is_file(self, name: str) -> bool:
        return not self.refusal(name) and (self.folder / name).is_file()

    def fingerprint(self, name: str) -> str:
        found = (self.folder / name).stat()
        return f"{found.st_size}-{found.st_mtime_ns}"

    def require_reachable(self, name: str, error: Exception) -> None:
        """Nothing: a disk's errors are of single files."""


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
            found = self.filesystem.find(self.path)
        for path in found:
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
        """The one place where a remote filesystem's failures become ours."""
        try:
            yield
        except (OSError, ValueError, TimeoutError) as error:
            raise Unavailable(f"{self.url} cannot be read ({error}): check its address and your access") from error


def printable(name: str) -> str:
    """A file's name as text that can be written anywhere; bytes that are not UTF-8 become \\x escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
