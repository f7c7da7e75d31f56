"""How a client reaches an attributor: address, TLS, and the token that goes with every call.

Several attributors behind one client: where they are, and how calls are spread over them.

Calls go round (gRPC's `round_robin`), to those alone whose health says SERVING: one that drains gets no new calls, and
one that died is tried again every few seconds.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from gmvaluator.auth.authenticator import is_loopback
from gmvaluator.client.requests import SERVICE
from gmvaluator.errors import InvalidInput, PreconditionFailed

RECONNECT_MS = 3_000
"""The longest pause between attempts to reach an attributor; gRPC's own default is two minutes."""

_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": SERVICE}})


def is_balanced(address: str) -> bool:
    """True for `a:1,b:1` and `dns:///name:1`, which may stand for several attributors."""
    return "," in address or address.startswith("dns:")


def target_of(address: str) -> str:
    """gRPC's name for an address: HOST:PORT, dns:///HOST:PORT, or IP:PORT,IP:PORT. Raises InvalidInput."""
    if "," not in address:
        return address
    versions = {_version(one) for one in address.split(",")}
    if len(versions) > 1:
        raise InvalidInput(f"{address[:200]!r} mixes IPv4 and IPv6: give addresses of one kind")
    return f"ipv{versions.pop()}:{address}"


def balancing_options(address: str) -> list[tuple[str, str | int]]:
    """Channel options for an address; none of balancing for a single one."""
    options: list[tuple[str, str | int]] = [("grpc.max_reconnect_backoff_ms", RECONNECT_MS)]
    if is_balanced(address):
        options.append(("grpc.service_config", _CONFIG))
    return options


def all_loopback(address: str) -> bool:
    """True if every part of `address` can be reached from this machine alone."""
    return all(is_loopback(one) for one in address.split(","))


def _version(address: str) -> int:
    host, _, port = address.rpartition(":")
    try:
        version: int = ipaddress.ip_address(host.strip("[]")).version
    except ValueError:
        version = 0
    if not version or not port.isdigit():
        raise InvalidInput(
            f"{address[:100]!r} is no IP:PORT: give a list of these, or dns:///NAME:PORT for a name that stands for "
            "several"
        )
    return version


DEFAULT_SERVER = "127.0.0.1:50051"


@dataclass(frozen=True, slots=True)
class Connection:
    """One attributor or several, and who asks them.

    address: host:port; ip:port,ip:port or dns:///name:port for several, over which calls are spread. token: sent with
    every call; token_file instead: read for every call, so that it can be replaced. authority: PEM of who signs the
    server's certificate; tls without it: the system's authorities. certificate, key: PEM of our own, for servers that
    ask for one. server_name: the name in the server's certificate, where it is not the address's. insecure: send a
    token without TLS beyond loopback.
    """

    address: str = DEFAULT_SERVER
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    tls: bool = False
    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str = ""
    insecure: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, address: str = "") -> Connection:
        """GMV_SERVER, GMV_TOKEN or GMV_TOKEN_FILE, GMV_TLS=1, GMV_TLS_CA, GMV_TLS_CERT, GMV_TLS_KEY, GMV_TLS_NAME,
        GMV_INSECURE=1; `address` wins.
        """
        found = os.environ if environment is None else environment
        return cls(
            address=address or found.get("GMV_SERVER", DEFAULT_SERVER),
            token=found.get("GMV_TOKEN", ""),
            token_file=_path(found, "GMV_TOKEN_FILE"),
            tls=found.get("GMV_TLS", "") == "1",
            authority=_path(found, "GMV_TLS_CA"),
            certificate=_path(found, "GMV_TLS_CERT"),
            key=_path(found, "GMV_TLS_KEY"),
            server_name=found.get("GMV_TLS_NAME", ""),
            insecure=found.get("GMV_INSECURE", "") == "1",
        )

    @property
    def secure(self) -> bool:
        """True if calls go over TLS."""
        return self.tls or self.authority is not None or self.certificate is not None

    @property
    def target(self) -> str:
        """The address as gRPC wants it. Raises InvalidInput if it is none."""
        return target_of(self.address)

    def channel(self) -> grpc.Channel:
        """A blocking channel. Raises InvalidInput or PreconditionFailed if this cannot work."""
        self._check()
        if self.secure:
            channel = grpc.secure_channel(self.target, self._credentials(), options=self.options())
        else:
            channel = grpc.insecure_channel(self.target, options=self.options())
        return grpc.intercept_channel(channel, _SendToken(self.metadata)) if self._sends_token else channel

    def aio_channel(self) -> grpc.aio.Channel:
        """An asyncio channel; pass `metadata()` with each call. Raises as `channel` does."""
        self._check()
        if self.secure:
            return grpc.aio.secure_channel(self.target, self._credentials(), options=self.options())
        return grpc.aio.insecure_channel(self.target, options=self.options())

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call. Raises PreconditionFailed if the token's file cannot be read."""
        token = self.token or self._file_token()
        return (("authorization", f"Bearer {token}"),) if token else ()

    def options(self) -> list[tuple[str, Any]]:
        """Channel options; a proxy, which the environment may name, is never asked for loopback."""
        named = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        direct = [("grpc.enable_http_proxy", 0)] if all_loopback(self.address) else []
        return [*named, *direct, *balancing_options(self.address)]

    @property
    def _sends_token(self) -> bool:
        return bool(self.token or self.token_file)

    def _check(self) -> None:
        if self._sends_token and not self.secure and not self.insecure and not all_loopback(self.address):
            raise InvalidInput(
                f"a token would go to {self.address} in the clear: use TLS (GMV_TLS=1 or GMV_TLS_CA), or say "
                "GMV_INSECURE=1 if the network between is yours"
            )
        if (self.certificate is None) != (self.key is None):
            raise InvalidInput("a client's certificate and its key go together: give both, or neither")
        if self.secure and "," in self.address and not self.server_name:
            raise InvalidInput(
                "several addresses over TLS need the name that stands in their certificates: give GMV_TLS_NAME"
            )

    def _credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(_content(self.authority), _content(self.key), _content(self.certificate))

    def _file_token(self) -> str:
        content = _content(self.token_file)
        return "" if content is None else content.decode("ascii", "replace").strip()


class _SendToken(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token to every call of a blocking channel."""

    def __init__(self, metadata: Callable[[], tuple[tuple[str, str], ...]]) -> None:
        self._metadata = metadata

    def _send(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return continuation(_Details(details, (*(details.metadata or ()), *self._metadata())), request)

    intercept_unary_unary: Any = _send
    intercept_unary_stream: Any = _send
    intercept_stream_unary: Any = _send
    intercept_stream_stream: Any = _send


class _Details(grpc.ClientCallDetails):
    """Details of a call, with other metadata."""

    def __init__(self, details: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self.method = details.method
        self.timeout = details.timeout
        self.metadata = metadata
        self.credentials = details.credentials
        self.wait_for_ready = getattr(details, "wait_for_ready", None)
        self.compression = getattr(details, "compression", None)


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    return Path(environment[name]) if environment.get(name) else None


def _content(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise PreconditionFailed(f"{path} cannot be read: {error.strerror}") from error
