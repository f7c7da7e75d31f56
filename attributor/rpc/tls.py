"""TLS credentials of the server from PEM files, which are read again when they change."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from gmvaluator.errors import PreconditionFailed

MAX_FILE_BYTES = 1024 * 1024
"""Maximum number of bytes that are read of a PEM file."""

_Fetcher = Callable[[], grpc.ServerCertificateConfiguration]
"""Type of a certificate fetcher in grpc's stubs, which omit that it may return None for "no change"."""

_Stamps = tuple[tuple[int, int, int], ...]
"""Modification time in nanoseconds, size in bytes and inode of each file."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files. client_authority: CA that signs clients' certificates (mTLS); None: clients need none."""

    certificate: Path
    key: Path
    client_authority: Path | None = None

    def credentials(self, on_problem: Callable[[str], None]) -> grpc.ServerCredentials:
        """Return credentials for a port; keep them as long as the server. A new connection gets the current files.

        on_problem: called when changed files cannot be used; the certificate read before then stays in use. Raises
        PreconditionFailed if the files cannot be used now.
        """
        reloader = _Reloader(self, on_problem)
        return grpc.dynamic_ssl_server_credentials(
            self.read(),
            cast(_Fetcher, reloader.reload_if_changed),
            require_client_authentication=self.client_authority is not None,
        )

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Read the files. Raises PreconditionFailed if one is missing or no PEM, or the key does not match."""
        certificate, key = _read(self.certificate), _read(self.key)
        authority = None if self.client_authority is None else _read(self.client_authority)
        try:
            chain = x509.load_pem_x509_certificates(certificate)
            private = serialization.load_pem_private_key(key, None)
            if authority is not None:
                x509.load_pem_x509_certificates(authority)
        except (ValueError, TypeError) as error:
            raise PreconditionFailed(f"the TLS files cannot be used: {error}; give PEM, the key unencrypted") from error
        if chain[0].public_key() != private.public_key():
            raise PreconditionFailed(f"{self.key} is not the key of {self.certificate}: give the pair")
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)

    def stamps(self) -> _Stamps:
        """Return stamps that differ after a file has changed. Raises OSError."""
        paths = [path for path in (self.certificate, self.key, self.client_authority) if path is not None]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in (path.stat() for path in paths))


class _Reloader:
    """A reader of changed PEM files, which gRPC calls before each handshake, from its own threads."""

    def __init__(self, files: TlsFiles, on_problem: Callable[[str], None]) -> None:
        self._files = files
        self._on_problem = on_problem
        self._lock = threading.Lock()
        self._stamps = _stamps(files)

    def reload_if_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the configuration if the files have changed, else None."""
        # Handshakes run concurrently.
        with self._lock:
            stamps = _stamps(self._files)
            if stamps == self._stamps:
                return None
            # Set first, so that files which cannot be used are reported once and not at each handshake.
            self._stamps = stamps
            try:
                return self._files.read()
            except PreconditionFailed as error:
                self._on_problem(f"{error}; the certificate read before still counts")
                return None


def _stamps(files: TlsFiles) -> _Stamps | None:
    try:
        return files.stamps()
    except OSError:
        return None


def certificate_expiry(path: Path) -> float:
    """Return when the first certificate of a PEM file expires, in seconds since 1970; 0 if it cannot be read."""
    try:
        with path.open("rb") as file:
            chain = x509.load_pem_x509_certificates(file.read(MAX_FILE_BYTES))
    except (OSError, ValueError):
        return 0.0  # as urgent as an expired one: an alert on the expiry fires
    return min(certificate.not_valid_after_utc.timestamp() for certificate in chain)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise PreconditionFailed(f"{path} cannot be read: {error.strerror}") from error
