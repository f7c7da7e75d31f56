"""The dashboard's process: wiring of its parts, and uvicorn on a bounded socket until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import structlog
import uvicorn
from cryptography.fernet import Fernet

from dashboard.app import application
from dashboard.figures.data import open_data
from dashboard.figures.live import Live
from dashboard.figures.overview import OverviewReader
from dashboard.web.access import Sessions, session_key
from dashboard.web.connection import Connection
from dashboard.web.connection_limit import MAX_CONNECTIONS, ConnectionLimit, open_places
from dashboard.web.context import AppContext, environment
from dashboard.web.rate_limit import RateLimit
from dashboard.web.settings import DashboardSettings
from dashboard.web.signed_out import FILE, SignedOut
from gmvaluator.auth.authenticator import is_loopback
from gmvaluator.auth.listening import load_authenticator
from gmvaluator.catalogue.store import KEY_FOLDER
from gmvaluator.errors import PreconditionFailed

SEND_BUFFER_BYTES = 32 * 1024
"""Kernel buffer of a browser that does not read; with our own 16 KiB it bounds the memory of one connection."""

GRACE_S = 2
"""Seconds that requests in flight have to finish at shutdown."""

MAX_WRONG_TOKENS_PER_MINUTE = 30
"""Limit of wrong tokens per minute, of all browsers together; tokens are too long to guess within any such limit."""

_log = structlog.get_logger("dashboard")


def serve(settings: DashboardSettings, announce: Callable[[str], None]) -> None:
    """Run the dashboard until SIGTERM or SIGINT.

    announce: called with the URL once the server accepts connections. Raises what `wired` raises, or
    PreconditionFailed.
    """
    with wired(settings) as context, listening(settings.address, settings.send_timeout_s) as listener:
        config = configuration(context)
        server = _AnnouncingServer(config, lambda: announce(_url(listener)))
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve(sockets=[listener]))


@contextmanager
def wired(settings: DashboardSettings) -> Iterator[AppContext]:
    """Open all parts of the dashboard.

    Raises MissingData, or PreconditionFailed for an address that other machines can reach, as it has no TLS.

    This is the one place that puts the concrete parts together.
    """
    authenticator = load_authenticator(
        settings.tokens_file,
        settings.address,
        required=settings.tokens is not None,
        insecure=settings.insecure,
        on_problem=lambda problem: _log.error("tokens", problem=problem),
        role="operator",
        right="see everything",
    )
    _check_clear_text(settings)
    signed_out = SignedOut(settings.place.folder / KEY_FOLDER / FILE, settings.session_s)
    with open_data(settings.place, settings.index_url) as data:
        yield AppContext(
            settings,
            data,
            Sessions(authenticator, _key(settings), settings.session_s, signed_out),
            Live(OverviewReader(data).read, lambda: data.ledger.head().sequence, settings.update_s),
            environment(),
            RateLimit(MAX_WRONG_TOKENS_PER_MINUTE),
        )


def _check_clear_text(settings: DashboardSettings) -> None:
    """Raise PreconditionFailed if browsers on other machines would send their tokens without TLS."""
    # Sessions over HTTPS only are a promise that a proxy terminates TLS; without it nobody could stay signed in.
    if not (is_loopback(settings.address) or settings.secure_cookies or settings.insecure):
        raise PreconditionFailed(
            f"{settings.address} can be reached from other machines, and tokens would be sent to it in the clear: "
            "listen on 127.0.0.1, or say --secure-cookies if only a proxy that terminates TLS reaches it, or "
            "--insecure if the network is trusted"
        )


def _key(settings: DashboardSettings) -> bytes:
    """Return the key of session cookies; if the data folder is read-only, a key of this process alone."""
    try:
        return session_key(settings.place.folder / KEY_FOLDER)
    except OSError as error:
        _log.warning("sessions end when the dashboard does", why=str(error))
        return Fernet.generate_key()


def configuration(context: AppContext) -> uvicorn.Config:
    """Return uvicorn's configuration for the application."""
    limit = ConnectionLimit(context.settings.connections_per_address, open_places())
    return uvicorn.Config(
        application(context),
        # uvicorn calls it to make each connection; its type allows classes alone.
        http=cast(Any, partial(Connection, limit=limit)),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        # Never reached: at its own limit a connection without a whole request makes way.
        limit_concurrency=MAX_CONNECTIONS + 1,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=64 * 1024,
    )


class _AnnouncingServer(uvicorn.Server):
    """A server that calls `announce` once it accepts connections."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()


def listening(address: str, send_timeout_s: float) -> socket.socket:
    """Return a listening socket whose connections buffer little. Raises PreconditionFailed."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Streams have a timeout of their own; this one ends other responses to a browser that is gone.
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
