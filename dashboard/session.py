"""Signing in: a token becomes a session, which the browser keeps and only we can read.

The cookie holds the token and a secret for forms, encrypted and signed under a key of the data folder. Whom the token
lets in is asked of the door at every request, so that a token that was revoked ends its sessions at once.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from gmvaluator.auth.authenticator import Caller, Door
from gmvaluator.errors import Forbidden, Unauthenticated

COOKIE = "gmv_session"
KEY_FILE = "dashboard.key"
_CSRF_BYTES = 24


@dataclass(frozen=True, slots=True)
class Session:
    """One signed-in browser. token: empty where none is asked for. csrf: goes with every form."""

    caller: Caller
    token: str
    csrf: str

    def check_csrf(self, given: str) -> None:
        """Raises Forbidden unless the form came from one of our pages."""
        if not hmac.compare_digest(self.csrf.encode(), given.encode()):
            raise Forbidden("this form is from an old page: go back, load the page again, and send it once more")


class Sessions:
    """Makes and reads sessions. Thread-safe."""

    def __init__(self, door: Door, key: bytes, session_s: int) -> None:
        self._door = door
        self._box = Fernet(key)
        self._session_s = session_s

    @property
    def open(self) -> bool:
        """True while no token is asked for, and everyone on this machine may do everything."""
        return self._door.open

    def begin(self, token: str) -> str:
        """A cookie for the bearer of a token. Raises Unauthenticated."""
        self._door.caller(token)
        return self._sealed(token)

    def anonymous(self) -> str:
        """A cookie for a browser without a token: it carries the secret for forms, and nothing else."""
        return self._sealed("")

    def read(self, cookie: str | None) -> Session | None:
        """The session of a cookie; None if there is none, it is too old, or it is not ours."""
        if not cookie:
            return None
        try:
            token, csrf = json.loads(self._box.decrypt(cookie.encode(), ttl=self._session_s))
        except (InvalidToken, ValueError):
            return None
        try:
            return Session(self._door.caller(token or None), token, csrf)
        except Unauthenticated:
            return None

    def bearer(self, token: str | None) -> Caller:
        """Who sends a token with a request, as Prometheus does. Raises Unauthenticated."""
        return self._door.caller(token)

    def _sealed(self, token: str) -> str:
        return self._box.encrypt(json.dumps([token, secrets.token_urlsafe(_CSRF_BYTES)]).encode()).decode()


def session_key(folder: Path) -> bytes:
    """The key of sessions, made at first; readable by its user alone. Raises OSError if the folder is not writable."""
    path = folder / KEY_FILE
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    key = Fernet.generate_key()
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
    return key
