"""Access control: the roles that may open each route, and sessions of browsers.

A session is a cookie that holds the token and a secret for forms (CSRF), encrypted and signed with a key from the data
folder. Every request authenticates the token again, so that revoking a token ends its sessions at once; signing out
ends one session, wherever its cookie was copied to.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from dashboard.web.signed_out import SignedOut
from gmvaluator.auth.authenticator import Authenticator
from gmvaluator.auth.roles import Caller, Role
from gmvaluator.errors import Forbidden, Unauthenticated
from gmvaluator.files import create_once, private_folder

_READERS = frozenset({Role.OPERATOR, Role.FINANCE, Role.AUDITOR})
_GENERATORS = frozenset({Role.GENERATOR, Role.EMBEDDER})
_EVERYONE = frozenset(Role)
PUBLIC: frozenset[Role] = frozenset()
"""Marks routes that need no token."""

ANOTHER = "Another owner"
"""Name of every other owner in pages for an owner."""

ACCESS: Mapping[str, frozenset[Role]] = {
    "static": PUBLIC,
    "health": PUBLIC,
    "sign_in": PUBLIC,
    "sign_in_form": PUBLIC,
    "sign_out": PUBLIC,
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
"""Roles that may open each route, by its name; the pages check that owners and generators see only their own data."""

PAGES = (("overview", "Overview"), ("finance", "Finance"), ("operations", "Operations"), ("search", "Search"))


def check_route(caller: Caller, route: str) -> None:
    """Raise Forbidden unless `caller` may open the route."""
    caller.require(*ACCESS[route], to=f"open {route.replace('_', ' ')}")


def may(caller: Caller, route: str) -> bool:
    """Return whether `caller` may open the route."""
    return caller.has(*ACCESS[route])


def reads_all(caller: Caller) -> bool:
    """Return whether `caller` may read every account."""
    return caller.has(*_READERS)


def check_owner(caller: Caller, account: str) -> None:
    """Raise Forbidden if the caller is an owner and the account is another owner's."""
    if caller.only_account not in (None, account):
        raise Forbidden("this is another owner's: an owner sees only their own")


def only_own(caller: Caller) -> bool:
    """Return whether the caller is only an owner, and so must not learn about other owners."""
    return caller.only_account is not None and not caller.has(*_GENERATORS)


def names_for(caller: Caller, names: Mapping[str, str]) -> dict[str, str]:
    """Return the account names that `caller` may see: an owner gets `ANOTHER` for every account but their own."""
    hidden = only_own(caller)
    return {account: ANOTHER if hidden and account != caller.only_account else name for account, name in names.items()}


COOKIE = "gmv_session"
KEY_FILE = "dashboard.key"
_CSRF_BYTES = 24
"""Random bytes of a CSRF secret."""


@dataclass(frozen=True, slots=True)
class Session:
    """The session of one browser. token: empty if none is required. csrf: the secret that every form carries."""

    caller: Caller
    token: str
    csrf: str

    def check_csrf(self, given: str) -> None:
        """Raise Forbidden unless the form carries this session's CSRF secret."""
        # In constant time, so that the secret cannot be guessed character by character.
        if not hmac.compare_digest(self.csrf.encode(), given.encode()):
            raise Forbidden("this form is from an old page: go back, load the page again, and send it once more")


class Sessions:
    """The sessions of all browsers, each stored in its cookie alone. Thread-safe."""

    def __init__(self, authenticator: Authenticator, key: bytes, session_s: int, signed_out: SignedOut) -> None:
        self._authenticator = authenticator
        self._signed_out = signed_out
        self._fernet = Fernet(key)
        self._session_s = session_s

    @property
    def open(self) -> bool:
        """True while no token is required, and everyone on this machine has every right."""
        return self._authenticator.anonymous_allowed

    def begin(self, token: str) -> str:
        """Begin a session: authenticate a token and return the session cookie. Raises Unauthenticated."""
        self._authenticator.authenticate(token)
        return self._sealed(token)

    def anonymous(self) -> str:
        """Return a cookie without a token, which carries only the CSRF secret."""
        return self._sealed("")

    def read(self, cookie: str | None) -> Session | None:
        """Return the session of a cookie; None if it is missing, expired, invalid, ended, or its token was revoked."""
        if not cookie:
            return None
        try:
            token, csrf = json.loads(self._fernet.decrypt(cookie.encode(), ttl=self._session_s))
        except (InvalidToken, ValueError):
            return None
        if csrf in self._signed_out:
            return None
        try:
            return Session(self._authenticator.authenticate(token or None), token, csrf)
        except Unauthenticated:
            return None

    def end(self, session: Session) -> None:
        """End a session, so that a copy of its cookie is worth nothing."""
        if session.token:
            # One without a token holds no right, and anyone can get one.
            self._signed_out.add(session.csrf)

    def bearer(self, token: str | None) -> Caller:
        """Authenticate a bearer token, as Prometheus sends it. Raises Unauthenticated."""
        return self._authenticator.authenticate(token)

    def _sealed(self, token: str) -> str:
        # The cookie holds the whole session: it outlives a restart, and two dashboards of one folder share it.
        return self._fernet.encrypt(json.dumps([token, secrets.token_urlsafe(_CSRF_BYTES)]).encode()).decode()


def session_key(folder: Path) -> bytes:
    """Return the key of session cookies; create it, readable by this user alone, if it is missing. Raises OSError."""
    path = folder / KEY_FILE
    private_folder(folder)
    if path.is_file():
        return path.read_bytes()
    return create_once(path, Fernet.generate_key())
