"""A client's connection to an attributor or several: addresses, load balancing, TLS, and the token of each call.

Calls to several attributors are balanced by gRPC's `round_robin` over those whose health check says SERVING: one that
drains gets no new calls, and one that died is retried every few seconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from gmvaluator.auth.secret_files import MAX_SECRET_BYTES, checked_token, file_text
from gmvaluator.client.addresses import DEFAULT_SERVER, all_loopback, is_balanced, target_of
from gmvaluator.client.requests import SERVICE
from gmvaluator.errors import InvalidInput, PreconditionFailed

RECONNECT_MS = 3_000
"""Longest pause between attempts to reach an attributor; gRPC's own default is two minutes."""

_CONFIG = json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": SERVICE}})


def balancing_options(address: str) -> list[tuple[str, str | int]]:
    """Return the channel options of an address; load balancing only where it may name several attributors."""
    options: list[tuple[str, str | int]] = [("grpc.max_reconnect_backoff_ms", RECONNECT_MS)]
    if is_balanced(address):
        options.append(("grpc.service_config", _CONFIG))
    return options


@dataclass(frozen=True, slots=True)
class Connection:
    """Settings of a connection to one attributor or several.

    address: host:port; ip:port,ip:port or dns:///name:port for several, over which calls are balanced. token: sent
    with every call; token_file instead: read for every call, so that it can be replaced. authority: PEM of the
    authority that signs the server's certificate; tls without it: the system's authorities. certificate, key: PEM of
    the client's own, for servers that require one. server_name: the name in the server's certificate, where it is not
    the address's. insecure: send a token without TLS beyond loopback.
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
        """Read GMV_SERVER, GMV_TOKEN or GMV_TOKEN_FILE, GMV_TLS=1, GMV_TLS_CA, GMV_TLS_CERT, GMV_TLS_KEY,
        GMV_TLS_NAME and GMV_INSECURE=1; `address` wins over GMV_SERVER.
        """
        variables = os.environ if environment is None else environment
        return cls(
            address=address or variables.get("GMV_SERVER", DEFAULT_SERVER).strip(),
            token=variables.get("GMV_TOKEN", ""),
            token_file=_path(variables, "GMV_TOKEN_FILE"),
            tls=variables.get("GMV_TLS", "") == "1",
            authority=_path(variables, "GMV_TLS_CA"),
            certificate=_path(variables, "GMV_TLS_CERT"),
            key=_path(variables, "GMV_TLS_KEY"),
            server_name=variables.get("GMV_TLS_NAME", ""),
            insecure=variables.get("GMV_INSECURE", "") == "1",
        )

    @property
    def secure(self) -> bool:
        """Whether calls go over TLS."""
        return self.tls or self.authority is not None or self.certificate is not None

    @property
    def target(self) -> str:
        """The address as a gRPC target. Raises InvalidInput if it is none."""
        return target_of(self.address)

    def channel(self) -> grpc.Channel:
        """Return a blocking channel that sends the token with each call.

        Raises InvalidInput or PreconditionFailed for settings that cannot work.
        """
        channel = self.channel_without_token()
        return grpc.intercept_channel(channel, _SendToken(self.metadata)) if self._sends_token else channel

    def channel_without_token(self) -> grpc.Channel:
        """Return a blocking channel; pass `metadata()` with each call. Raises like `channel`."""
        self._check()
        if self.secure:
            return grpc.secure_channel(self.target, self._credentials(), options=self.options())
        return grpc.insecure_channel(self.target, options=self.options())

    def aio_channel(self) -> grpc.aio.Channel:
        """Return an asyncio channel; pass `metadata()` with each call. Raises like `channel`."""
        self._check()
        if self.secure:
            return grpc.aio.secure_channel(self.target, self._credentials(), options=self.options())
        return grpc.aio.insecure_channel(self.target, options=self.options())

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call: the token.

        Raises PreconditionFailed if its file cannot be read, or it is no token.
        """
        if not self._sends_token:
            return ()
        token = checked_token(self.token, "the token that was given (GMV_TOKEN)") if self.token else self._file_token()
        return (("authorization", f"Bearer {token}"),)

    def options(self) -> list[tuple[str, Any]]:
        """Return the channel options; calls to loopback bypass a proxy that the environment may name."""
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
        authority, key, certificate = (_content(path) for path in (self.authority, self.key, self.certificate))
        _check_pem(authority, key, certificate)
        return grpc.ssl_channel_credentials(authority, key, certificate)

    def _file_token(self) -> str:
        content = _content(self.token_file) or b""
        try:
            text = file_text(content[:MAX_SECRET_BYTES])
        except UnicodeDecodeError:
            text = ""
        return checked_token(text, str(self.token_file))


class _SendToken(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """An interceptor that adds the token to every call of a blocking channel."""

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


def _check_pem(authority: bytes | None, key: bytes | None, certificate: bytes | None) -> None:
    """Raise PreconditionFailed if gRPC could not use a file: it would only write to its own log and not connect."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        if authority is not None:
            x509.load_pem_x509_certificates(authority)
        if key is None or certificate is None:
            return
        matches = x509.load_pem_x509_certificate(certificate).public_key() == (
            serialization.load_pem_private_key(key, None).public_key()
        )
    except (ValueError, TypeError) as error:
        raise PreconditionFailed(f"the TLS files cannot be used: {error}; give PEM, the key unencrypted") from error
    if not matches:
        raise PreconditionFailed("the client's key is not that of its certificate: give the pair")


def _content(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise PreconditionFailed(f"{path} cannot be read: {error.strerror}") from error
