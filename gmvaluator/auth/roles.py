"""Who may do what: roles, callers, and the roles that may call each method. Knows no transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gmvaluator.errors import Forbidden
from gmvaluator.ids import OwnerId


class Role(StrEnum):
    """What a caller is; a token has exactly one.

    generator: a generation server; asks for its own images to be valued and paid, and reads its own answers.
    embedder: a generator that may also send vectors and a quality that it computed itself, in place of pixels.
    operator: runs the service; previews, reads the ledger, opens disputes.
    owner: one rights holder; reads their own balance and disputes in their own name, nothing of others.
    finance: closes and pays; reads the ledger, opens disputes.
    auditor: reads the ledger.
    """

    GENERATOR = "generator"
    EMBEDDER = "embedder"
    OPERATOR = "operator"
    OWNER = "owner"
    FINANCE = "finance"
    AUDITOR = "auditor"


GENERATORS = frozenset({Role.GENERATOR, Role.EMBEDDER})
LEDGER_READERS = frozenset({Role.OPERATOR, Role.FINANCE, Role.AUDITOR})
EVERYONE = frozenset(Role)
LOCAL_IDENTITY = "local"
"""Generator identity, and name, of callers of a program that asks for no token."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as authenticated.

    name: of the token, for logs. roles: one, or all of them for `LOCAL`. generator_identity: the first half of the
    ledger's key, for generators. owner_id: whose account an owner may see.
    """

    name: str
    roles: frozenset[Role]
    generator_identity: str = ""
    owner_id: OwnerId | None = None

    def has(self, *roles: Role) -> bool:
        """True if the caller has one of `roles`."""
        return not self.roles.isdisjoint(roles)

    def require(self, *roles: Role, to: str) -> None:
        """Raises Forbidden unless the caller has one of `roles`; `to` says what for."""
        if not self.has(*roles):
            raise Forbidden(f"{self.name} may not {to}: use a token of role {' or '.join(sorted(roles))}")

    @property
    def only_account(self) -> str | None:
        """The one account that an owner may see; None for a caller who may see all."""
        return None if self.owner_id is None or self.has(*LEDGER_READERS) else f"owner:{self.owner_id}"


LOCAL = Caller(LOCAL_IDENTITY, EVERYONE, LOCAL_IDENTITY)
"""The caller of a program that asks for no token: it may do everything, and listens on loopback alone."""

_ATTRIBUTION = "/gmvaluator.v1.AttributionService/"
_ROYALTY = "/gmvaluator.v1.RoyaltyService/"

PERMISSIONS: Mapping[str, frozenset[Role]] = {
    _ATTRIBUTION + "Attribute": GENERATORS,
    _ATTRIBUTION + "AttributeStream": GENERATORS,
    _ATTRIBUTION + "GetAttribution": GENERATORS,
    _ATTRIBUTION + "Preview": GENERATORS | {Role.OPERATOR},
    _ROYALTY + "GetRoyalties": LEDGER_READERS | {Role.OWNER},
    _ROYALTY + "WatchRoyalties": LEDGER_READERS,
    _ROYALTY + "OpenDispute": frozenset({Role.OPERATOR, Role.FINANCE, Role.OWNER}),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": frozenset({Role.OPERATOR}),
}
"""Roles that may call each method, by its path on the wire. What is not here nobody may call."""

PUBLIC = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Watch"})
"""Methods that need no token: probes have none, and health says nothing but whether it serves."""


def check_call(caller: Caller, method: str) -> None:
    """Raises Forbidden unless `caller` may call the method of this path."""
    allowed = PERMISSIONS.get(method)
    if allowed is None:
        raise Forbidden(f"{method} is open to nobody")
    caller.require(*allowed, to=f"call {method.rpartition('/')[2]}")
