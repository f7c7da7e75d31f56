"""Roles, callers, and the roles that may call each method. Independent of the transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gmvaluator.accounts import owner_account
from gmvaluator.errors import Forbidden
from gmvaluator.ids import OwnerId


class Role(StrEnum):
    """The role of a caller; a token has exactly one.

    generator: a generation server. Has its own images valued and paid, and reads its own attributions.
    embedder: a generator that may also send vectors and a quality that it computed itself, instead of pixels.
    operator: runs the service. Previews, reads the ledger, opens disputes.
    owner: one rights holder. Reads its own balance and opens disputes in its own name; sees nothing of other owners.
    finance: closes periods and pays. Reads the ledger, opens disputes.
    auditor: reads the ledger.
    """

    GENERATOR = "generator"
    EMBEDDER = "embedder"
    OPERATOR = "operator"
    OWNER = "owner"
    FINANCE = "finance"
    AUDITOR = "auditor"


GENERATORS = frozenset({Role.GENERATOR, Role.EMBEDDER})
"""Roles that may have images attributed."""

LEDGER_READERS = frozenset({Role.OPERATOR, Role.FINANCE, Role.AUDITOR})
"""Roles that may read every account."""

EVERYONE = frozenset(Role)
LOCAL_IDENTITY = "local"
"""Name and generator identity of callers of a program that requires no token."""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller.

    name: the token's, for logs. roles: one, or all of them for `LOCAL`. generator_identity: first half of the ledger's
    key of a generation, for generators. owner_id: the owner whose account the caller may see, for owners.
    model_versions: generators whose images it may have valued; empty for every one.
    """

    name: str
    roles: frozenset[Role]
    generator_identity: str = ""
    owner_id: OwnerId | None = None
    model_versions: tuple[str, ...] = ()

    def has(self, *roles: Role) -> bool:
        """Return True if the caller has one of `roles`."""
        return not self.roles.isdisjoint(roles)

    def require(self, *roles: Role, to: str) -> None:
        """Raise Forbidden unless the caller has one of `roles`. to: the action, for the message."""
        if not self.has(*roles):
            raise Forbidden(f"{self.name} may not {to}: use a token of role {' or '.join(sorted(roles))}")

    def require_generator(self, model_version: str) -> None:
        """Raise Forbidden unless the caller may have images of this generator valued."""
        if self.model_versions and model_version not in self.model_versions:
            allowed = ", ".join(self.model_versions)[:200]
            raise Forbidden(
                f"{self.name} may not name generator {model_version[:60]!r}, only {allowed}: use a token of that "
                "generator, or bind this one to it by `gmvaluator token bind`"
            )

    @property
    def only_account(self) -> str | None:
        """The only account that an owner may see; None for callers who may see every account."""
        return None if self.owner_id is None or self.has(*LEDGER_READERS) else owner_account(self.owner_id)


LOCAL = Caller(LOCAL_IDENTITY, EVERYONE, LOCAL_IDENTITY)
"""Every caller of a program that requires no token: it may do everything. Such a program listens on loopback only."""

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
"""Roles that may call each method, by its path on the wire. Methods that are not listed are forbidden to everyone."""

PUBLIC = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Watch"})
"""Methods that need no token: probes have none, and health reveals only whether the service is up."""


def check_call(caller: Caller, method: str) -> None:
    """Raise Forbidden unless `caller` may call the method with this path."""
    allowed = PERMISSIONS.get(method)
    if allowed is None:
        raise Forbidden(f"{method} is open to nobody")
    caller.require(*allowed, to=f"call {method.rpartition('/')[2]}")
