"""The door of every program: a bearer token becomes a caller with a role.

Without a file of tokens the door stands open and everyone is `LOCAL`: such a program listens on loopback alone. From
the moment there is a file, only its tokens are let in, and if it vanishes nobody is. Knows no transport: the attributor
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


class Authenticator:
    """Lets callers in by the tokens of a file, which is read again when it changes. Thread-safe; costs a stat a call.

    required: a missing file is an error now, and lets nobody in later. on_problem: told once of each state of the file
    that cannot be used; what it held before then still counts.
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
        self._closed = required
        if path is not None and (required or path.exists()):
            self._tokens = read_tokens(path)
            self._stamp, self._closed = _stamp(path), True

    @property
    def open(self) -> bool:
        """True while no token is asked for."""
        return not self._current()[0]

    def caller(self, token: str | None) -> Caller:
        """Whom a token lets in; None says that none was sent. Raises Unauthenticated."""
        closed, tokens = self._current()
        if not closed:
            return LOCAL
        if token is None:
            raise Unauthenticated("no token was sent: send `authorization: Bearer TOKEN`")
        found = _matching(tokens, token[: MAX_TOKEN_CHARACTERS + 1])
        if found is None:
            raise Unauthenticated("the token is not known here, or was revoked: ask the operator for another")
        if found.expired(datetime.now(UTC)):
            raise Unauthenticated(f"token {found.name} expired at {found.expires_at}: ask the operator for another")
        return found.caller

    def _current(self) -> tuple[bool, tuple[Token, ...]]:
        if self._path is None:
            return self._closed, self._tokens
        with self._lock:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._reload(self._path, stamp)
            return self._closed, self._tokens

    def _reload(self, path: Path, stamp: _Stamp | None) -> None:
        self._stamp = stamp
        if stamp is not None:
            self._closed = True
        try:
            self._tokens = read_tokens(path)
        except MissingData as error:
            self._tokens = ()
            self._on_problem(str(error))
        except PreconditionFailed as error:
            self._on_problem(f"{error}; the tokens read before still count")


def bearer_token(authorization: str | None) -> str | None:
    """The token of an `Authorization` header; None if there is none. Raises Unauthenticated for another scheme."""
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("the authorization header is refused: send `Bearer TOKEN`")
    return token.strip()


def is_loopback(address: str) -> bool:
    """True if HOST:PORT can be reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _matching(tokens: tuple[Token, ...], presented: str) -> Token | None:
    """Compares with every token, in the same time whichever it is."""
    digest = token_sha256(presented)
    found = None
    for token in tokens:
        if hmac.compare_digest(token.sha256, digest):
            found = token
    return found


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - a call on every request
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
