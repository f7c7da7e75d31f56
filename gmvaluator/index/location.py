"""Index locations: the address of a Qdrant server, or a folder served by the embedded engine."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from gmvaluator.errors import InvalidInput
from gmvaluator.index.engine.launcher import Contact, EngineLease

_REST_PORT = 6333
_GRPC_PORT = 6334
_FIRST_RECONNECT_MS, _RECONNECT_MS = 100, 3_000
"""Initial and maximum backoff of gRPC's reconnection to a server. gRPC's defaults are 1 s, longer than all retries of a
call together, and 120 s."""

_UNIX = "unix"
_HOST_PORT = re.compile(r"[A-Za-z0-9._-]+:\d{1,5}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address and credentials of a gRPC server that implements Qdrant's API.

    port: of a host; of the host "unix", the path of a Unix socket.
    """

    host: str
    port: int | str
    tls: bool
    api_key: str | None = field(repr=False)

    @property
    def target(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def channel_options(self) -> dict[str, int]:
        """Options for a gRPC channel to this endpoint."""
        # gRPC sends even loopback traffic to a proxy that the environment configures.
        loopback = self.host in ("localhost", "127.0.0.1", "::1", _UNIX)
        direct = {"grpc.enable_http_proxy": 0} if loopback else {}
        pauses = {"initial": _FIRST_RECONNECT_MS, "max": _RECONNECT_MS}
        return {**direct, **{f"grpc.{name}_reconnect_backoff_ms": pause for name, pause in pauses.items()}}


class Access(Protocol):
    """Access to an index: provides its current endpoint, and a new one after a connection failure."""

    embedded: bool
    """Whether the index is served by the embedded engine."""

    @property
    def endpoint(self) -> Endpoint: ...

    def renew(self, broken: Endpoint) -> Endpoint:
        """Return the endpoint to use after `broken` could not be reached. May block while an engine starts."""

    def close(self) -> None: ...


class ServerAccess:
    """Access to a Qdrant server, whose endpoint never changes."""

    embedded = False

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    @property
    def endpoint(self) -> Endpoint:
        return self._endpoint

    def renew(self, broken: Endpoint) -> Endpoint:  # noqa: ARG002 - a server has one endpoint
        return self._endpoint

    def close(self) -> None:
        """Do nothing: a server needs no lease."""


class EmbeddedAccess:
    """Access to an embedded engine, which is restarted at another endpoint after it died."""

    embedded = True

    def __init__(self, folder: Path) -> None:
        self._lease = EngineLease(folder)

    @property
    def endpoint(self) -> Endpoint:
        return _endpoint(self._lease.contact)

    def renew(self, broken: Endpoint) -> Endpoint:
        contact = self._lease.contact
        return _endpoint(self._lease.renew(contact) if _endpoint(contact) == broken else contact)

    def close(self) -> None:
        self._lease.close()


def _endpoint(contact: Contact) -> Endpoint:
    return Endpoint(_UNIX, str(contact.socket), False, contact.api_key)


def open_access(location: str | Path, api_key: str | None = None) -> Access:
    """Open access to the index at `location`.

    A Qdrant server is http://HOST[:PORT], https://HOST[:PORT] or HOST:PORT, where PORT is the gRPC port. No port,
    or the REST port 6333, means 6334. Anything else is a folder. Raises InvalidInput, IndexUnavailable.
    """
    text = str(location)
    if isinstance(location, str) and ("://" in text or _HOST_PORT.fullmatch(text)):
        return ServerAccess(_server(text, api_key))
    return EmbeddedAccess(Path(location))


def _server(text: str, api_key: str | None) -> Endpoint:
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in ("http", "https") or not parts.hostname or port == -1 or parts.path not in ("", "/"):
        raise InvalidInput(
            f"{text[:100]!r} is no address of a Qdrant server: use http://HOST:PORT or https://HOST:PORT"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Endpoint(host, _GRPC_PORT if port in (None, _REST_PORT) else port, parts.scheme == "https", api_key)
