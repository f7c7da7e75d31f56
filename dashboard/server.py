"""The dashboard's process: uvicorn on a socket of our own, until SIGTERM or SIGINT.

The one place that puts the concrete parts together.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
import uvicorn
from cryptography.fernet import Fernet

from dashboard.app import application
from dashboard.figures.data import open_sources
from dashboard.figures.live import Live
from dashboard.figures.overview import OverviewReader
from dashboard.web.access import Sessions, session_key
from dashboard.web.connection import Connection
from dashboard.web.context import AppContext, environment
from dashboard.web.settings import DashboardSettings
from gmvaluator.auth.authenticator import Authenticator, is_loopback
from gmvaluator.catalogue.store import KEY_FOLDER
from gmvaluator.errors import PreconditionFailed

_log = structlog.get_logger("dashboard")


@contextmanager
def wired(settings: DashboardSettings) -> Iterator[AppContext]:
    """Everything open. Raises MissingData, or PreconditionFailed if anybody could come in from outside."""
    door = load_authenticator(settings)
    with open_sources(settings.place, settings.index_url) as sources:
        overview = OverviewReader(sources)
        live = Live(overview.read, lambda: sources.ledger.head().sequence, settings.update_s)
        yield AppContext(settings, sources, Sessions(door, _key(settings), settings.session_s), live, environment())


def load_authenticator(settings: DashboardSettings) -> Authenticator:
    """Who is let in. Raises PreconditionFailed if the address can be reached from outside and no token is asked for."""
    door = Authenticator(
        settings.tokens_file,
        required=settings.tokens is not None,
        on_problem=lambda problem: _log.error("tokens", problem=problem),
    )
    if door.open and not settings.insecure and not is_loopback(settings.address):
        raise PreconditionFailed(
            f"{settings.address} can be reached from other machines and there are no tokens: make one by "
            "`gmvaluator token new --role operator`, or say --insecure if everyone who can connect may see everything"
        )
    return door


def _key(settings: DashboardSettings) -> bytes:
    """The key of sessions; one of this process alone, where the data folder cannot be written."""
    try:
        return session_key(settings.place.folder / KEY_FOLDER)
    except OSError as error:
        _log.warning("sessions end when the dashboard does", why=str(error))
        return Fernet.generate_key()


SEND_BUFFER_BYTES = 32 * 1024
"""What the kernel keeps for a browser that does not read; with our own 16 KiB it bounds what such a one costs."""
GRACE_S = 2
MAX_CONNECTIONS = 2_000


def serve(settings: DashboardSettings, announce: Callable[[str], None]) -> None:
    """Serve until told to stop; `announce` gets the URL. Raises what wiring raises, or PreconditionFailed."""
    with wired(settings) as parts, listening(settings.address, settings.send_timeout_s) as listener:
        config = configuration(parts)
        server = _Announcing(config, lambda: announce(_url(listener)))
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve(sockets=[listener]))


def configuration(parts: AppContext) -> uvicorn.Config:
    """How uvicorn serves the pages."""
    return uvicorn.Config(
        application(parts),
        http=Connection,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=64 * 1024,
    )


class _Announcing(uvicorn.Server):
    """Says where it serves once it does."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()


def listening(address: str, send_timeout_s: float) -> socket.socket:
    """A bound socket, whose connections keep little of what is not read. Raises PreconditionFailed."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Streams cut by their own clock; this is for what else is being sent to a browser that is gone.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(2_000 * send_timeout_s))
    try:
        listener.bind((host.strip("[]"), int(port)))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise PreconditionFailed(f"cannot listen on {address} ({error.strerror}): is another program there?") from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
