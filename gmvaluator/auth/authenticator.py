"""Token authentication: a bearer token becomes a caller with a role.

Without a token file every caller is `LOCAL`, and the program listens on loopback only. Once a file exists, only its
tokens are accepted; if it is deleted afterwards, every call is rejected. The module knows no transport: the attributor
and the dashboard both use it.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from gmvaluator.auth.roles import LOCAL, Caller
from gmvaluator.auth.tokens import MAX_TOKEN_CHARACTERS, Token, read_tokens, token_sha256
from gmvaluator.errors import MissingData, PreconditionFailed, Unauthenticated

TOKENS_FILE = "tokens.json"
"""Name of the file of tokens in the data folder."""

_Stamp = tuple[int, int, int]
"""Modification time in nanoseconds, size in bytes, inode: another value when the file was replaced or edited."""


class Authenticator:
    """An authenticator of callers by the tokens in a file. Thread-safe; each call costs one `stat`.

    The file is read again when it changes. If it cannot be parsed then, the tokens read before stay valid, and
    `on_problem` is called once for that state of the file. required: a missing file raises MissingData now, and
    rejects every call later.
    """

    def __init__(
        self,
        path: Path | None,
        required: bool = False,
        on_problem: Callable[[str], None] = lambda message: None,  # noqa: ARG005
    ) -> None:
        self._path = path
        self._on_problem = on_problem
        self._lock = threading.Lock()
        self._stamp: _Stamp | None = None
        self._tokens: tuple[Token, ...] = ()
        self._token_required = required
        if path is not None and (required or path.exists()):
            self._tokens = read_tokens(path)
            self._stamp, self._token_required = _stamp(path), True

    @property
    def anonymous_allowed(self) -> bool:
        """True while no token is required."""
        return not self._current()[0]

    def authenticate(self, token: str | None) -> Caller:
        """Return the caller whose token this is; None means that none was sent. Raises Unauthenticated."""
        token_required, tokens = self._current()
        if not token_required:
            return LOCAL
        if token is None:
            raise Unauthenticated("no token was sent: send `authorization: Bearer TOKEN`")
        # One character beyond the limit cannot match, and bounds what is hashed for a stranger.
        known = _matching_token(tokens, token[: MAX_TOKEN_CHARACTERS + 1])
        if known is None:
            raise Unauthenticated("the token is not known here, or was revoked: ask the operator for another")
        if known.expired(datetime.now(UTC)):
            raise Unauthenticated(f"token {known.name} expired at {known.expires_at}: ask the operator for another")
        return known.caller

    def _current(self) -> tuple[bool, tuple[Token, ...]]:
        if self._path is None:
            return self._token_required, self._tokens
        with self._lock:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._reload(self._path, stamp)
            return self._token_required, self._tokens

    def _reload(self, path: Path, stamp: _Stamp | None) -> None:
        # Before reading: a file that cannot be parsed is reported once, not at every call.
        self._stamp = stamp
        if stamp is not None:
            self._token_required = True
        try:
            self._tokens = read_tokens(path)
        except MissingData as error:
            # Deleting the file revokes every token: it must not open the program to everyone.
            self._tokens = ()
            self._on_problem(str(error))
        except PreconditionFailed as error:
            # A typo in the file must not stop a running program: the operator is told, and its callers go on.
            self._on_problem(f"{error}; the tokens read before still count")


def bearer_token(authorization: str | None) -> str | None:
    """Return the token of an `Authorization` header, or None without one. Raises Unauthenticated for other schemes."""
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("the authorization header is refused: send `Bearer TOKEN`")
    return token.strip()


def is_loopback(address: str) -> bool:
    """Return True if HOST:PORT can be reached from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _matching_token(tokens: tuple[Token, ...], presented: str) -> Token | None:
    digest = token_sha256(presented)
    match = None
    # Without a break: the time says nothing about which token matched.
    for token in tokens:
        if hmac.compare_digest(token.sha256, digest):
            match = token
    return match


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - runs on every call, and pathlib is slower
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
