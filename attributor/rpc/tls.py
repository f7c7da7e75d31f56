"""The server's certificate, and the authority of its clients' certificates: read again when their files change."""

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
_Fetcher = Callable[[], grpc.ServerCertificateConfiguration]
"""The stubs do not know that None says `no change`."""

_Stamps = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. client_authority: of the certificates that clients have to show; None asks them for none."""

    certificate: Path
    key: Path
    client_authority: Path | None = None

    def credentials(self, on_problem: Callable[[str], None]) -> grpc.ServerCredentials:
        """What a port is opened with; keep it as long as the server. New connections get what the files hold then.

        on_problem: told of files that cannot be used; what they held before then still counts. Raises
        PreconditionFailed if they cannot be used now.
        """
        watched = _Watched(self, on_problem)
        return grpc.dynamic_ssl_server_credentials(
            self.read(),
            cast(_Fetcher, watched.changed),
            require_client_authentication=self.client_authority is not None,
        )

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Raises PreconditionFailed if a file is missing, is no PEM, or the key is not the certificate's."""
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
        """Changes when a file does. Raises OSError."""
        paths = [path for path in (self.certificate, self.key, self.client_authority) if path is not None]
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in (path.stat() for path in paths))


class _Watched:
    """Asked by gRPC before each handshake, from threads of its own."""

    def __init__(self, files: TlsFiles, on_problem: Callable[[str], None]) -> None:
        self._files = files
        self._on_problem = on_problem
        self._lock = threading.Lock()
        self._stamps = _stamps(files)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The files' content if it changed, else None."""
        with self._lock:
            stamps = _stamps(self._files)
            if stamps == self._stamps:
                return None
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
