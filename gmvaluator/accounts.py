"""Names of the ledger's accounts: five of the system's own, and `owner:UUID` for each owner."""

from __future__ import annotations

import uuid

from gmvaluator.ids import OwnerId

ISSUANCE = "issuance"
"""Source of all credits: its balance is minus everything that was issued."""

UNATTRIBUTED = "unattributed"
"""Receives the part of a credit that no contributor earns."""

SUSPENSE = "suspense"
"""Receives the credits of works whose owner is unknown, until one is registered."""

HELD = "held"
"""Receives the credits of works that several parties claim, until the claims are settled."""

PAID = "paid"
"""Receives what has been paid out in money."""

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
