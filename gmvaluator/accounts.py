"""Names of the ledger's accounts: five of the system's own, and `owner:UUID` for each owner."""

from __future__ import annotations

import uuid

from gmvaluator.ids import OwnerId

ISSUANCE = "issuance"
"""Account that all credits are issued from: its balance is minus everything that was issued."""

UNATTRIBUTED = "unattributed"
"""Account for the part of a credit that no contributor earns."""

SUSPENSE = "suspense"
"""Account for the credits of works without a known owner, until an owner is registered."""

HELD = "held"
"""Account for the credits of works that several parties claim, until the claims are settled."""

PAID = "paid"
"""Account for credits that have been paid out in money."""

OWNER_PREFIX = "owner:"
"""An owner's account is this prefix and the owner's UUID."""


def owner_account(owner_id: OwnerId) -> str:
    """Return the account of an owner."""
    return f"{OWNER_PREFIX}{owner_id}"


def owner_of(account: str) -> OwnerId | None:
    """Return the owner of an account, the inverse of `owner_account`; None if it belongs to no owner."""
    if not account.startswith(OWNER_PREFIX):
        return None
    return OwnerId(uuid.UUID(account.removeprefix(OWNER_PREFIX)))
