"""Names of the ledger's accounts that belong to no owner; an owner's account is `owner:UUID`."""

UNATTRIBUTED = "unattributed"
"""Receives the part of a credit that no contributor earns."""

SUSPENSE = "suspense"
"""Receives the credits of works whose owner is unknown, until one is registered."""

HELD = "held"
"""Receives the credits of works that several parties claim, until the claims are settled."""

PAID = "paid"
"""Receives what has been paid out in money."""
