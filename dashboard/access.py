"""Who may open what: every route has a line here, and a test walks the routes."""

from __future__ import annotations

from collections.abc import Mapping

from gmvaluator.auth.authenticator import Caller, Role
from gmvaluator.errors import Forbidden

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
