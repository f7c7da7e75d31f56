"""Who may open what: every route has a line here, and a test walks the routes.

Signing in: a token becomes a session, which the browser keeps and only we can read.

The cookie holds the token and a secret for forms, encrypted and signed under a key of the data folder. Whom the token
lets in is asked of the door at every request, so that a token that was revoked ends its sessions at once.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from gmvaluator.auth.authenticator import Authenticator
from gmvaluator.auth.roles import Caller, Role
from gmvaluator.errors import Forbidden, Unauthenticated
from gmvaluator.files import create_once

_READERS = frozenset({Role.OPERATOR, Role.FINANCE, Role.AUDITOR})
_GENERATORS = frozenset({Role.GENERATOR, Role.EMBEDDER})
_EVERYONE = frozenset(Role)
NOBODY_ASKED: frozenset[Role] = frozenset()

ANOTHER = "Another owner"
"""What an owner is told of others."""

ACCESS: Mapping[str, frozenset[Role]] = {
    "static": NOBODY_ASKED,
    "health": NOBODY_ASKED,
    "sign_in": NOBODY_ASKED,
    "sign_in_form": NOBODY_ASKED,
    "sign_out": NOBODY_ASKED,
    "home": _EVERYONE,
    "overview": _READERS,
    "live_overview": _READERS,
    "owner": _READERS | {Role.OWNER},
    "statement": frozenset({Role.OPERATOR, Role.FINANCE, Role.AUDITOR, Role.OWNER}),
    "dispute": frozenset({Role.OPERATOR, Role.FINANCE, Role.OWNER}),
    "work": _READERS | {Role.OWNER},
    "generation": _EVERYONE,
    "replay": _EVERYONE,
    "finance": _READERS,
    "operations": frozenset({Role.OPERATOR, Role.AUDITOR}),
    "operations_data": frozenset({Role.OPERATOR, Role.AUDITOR}),
    "search": _EVERYONE,
    "preview": _GENERATORS | {Role.OPERATOR, Role.OWNER},
    "work_picture": _EVERYONE,
    "generated_picture": _GENERATORS | {Role.OPERATOR},
    "metrics": frozenset({Role.OPERATOR, Role.AUDITOR}),
}
"""Roles that may open each route, by its name. Owners and generators see their own, which the pages check."""

PAGES = (("overview", "Overview"), ("finance", "Finance"), ("operations", "Operations"), ("search", "Search"))


def check_route(caller: Caller, route: str) -> None:
    """Raises Forbidden unless `caller` may open the route."""
    caller.require(*ACCESS[route], to=f"open {route.replace('_', ' ')}")


def may(caller: Caller, route: str) -> bool:
    """True if `caller` may open the route."""
    return caller.has(*ACCESS[route])


def reads_all(caller: Caller) -> bool:
    """True for those who see every account."""
    return caller.has(*_READERS)


def check_owner(caller: Caller, account: str) -> None:
    """Raises Forbidden if the caller is an owner and the account is another's."""
    if caller.only_account not in (None, account):
        raise Forbidden("this is another owner's: an owner sees only their own")


def only_own(caller: Caller) -> bool:
    """Whether the caller is an owner and nothing else, who learns nothing of other owners."""
    return caller.only_account is not None and not caller.has(*_GENERATORS)


def names_for(caller: Caller, names: Mapping[str, str]) -> dict[str, str]:
    """Account to what the caller may know it by: an owner is told no other owner's name."""
    hidden = only_own(caller)
    return {one: ANOTHER if hidden and one != caller.only_account else name for one, name in names.items()}


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

    def __init__(self, door: Authenticator, key: bytes, session_s: int) -> None:
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
    if path.is_file():
        return path.read_bytes()
    return create_once(path, Fernet.generate_key())
