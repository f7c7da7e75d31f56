"""Naming an owner on the command line."""

from __future__ import annotations

import uuid

from gmvaluator.errors import InvalidInput
from gmvaluator.ids import OwnerId


def owner_argument(text: str) -> OwnerId:
    """An owner's UUID, or its account `owner:<uuid>`. Raises InvalidInput."""
    try:
        return OwnerId(uuid.UUID(text.removeprefix("owner:")))
    except ValueError:
        raise InvalidInput(
            f"{text[:60]!r} is no owner: give the UUID, which `gmvaluator ledger totals --json` lists"
        ) from None
