"""Erasure of an owner: destroy the key, rewrite the database, and sign a receipt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gmvaluator.auth.signing import Signed, Signer
from gmvaluator.catalogue.store import KEY_FOLDER, Catalogue
from gmvaluator.files import atomic_write, private_folder
from gmvaluator.ids import OwnerId
from gmvaluator.storage.schema import utc_text

RECEIPT_FOLDER = "receipts"
RECEIPT_FORMAT = 1


def erase_owner(
    catalogue: Catalogue, owner_id: OwnerId, folder: Path, ledger_state: Mapping[str, Any] | None
) -> Signed:
    """Erase an owner, and return a signed receipt, which is also written to DATA/receipts. Raises NotFound.

    Repeating it changes nothing but signs a new receipt. ledger_state: the ledger's head and the owner's balance, which
    erasure does not change.
    """
    removed = catalogue.erase_owner(owner_id)
    log_emptied = catalogue.rewrite()
    receipt = {
        "format": RECEIPT_FORMAT,
        "what": "gmvaluator receipt of erasure",
        "owner_id": str(owner_id),
        "forgotten_at": utc_text(datetime.now(UTC)),
        "references_removed": removed,
        "key_destroyed": not (folder / KEY_FOLDER / f"{owner_id}.key").exists(),
        "database_rewritten": True,
        "log_emptied": log_emptied,
        "ledger": None if ledger_state is None else dict(ledger_state),
    }
    signed = Signer(folder / KEY_FOLDER).sign(json.dumps(receipt, sort_keys=True, separators=(",", ":")).encode())
    file = folder / RECEIPT_FOLDER / f"forgotten-{owner_id}.json"
    private_folder(file.parent)
    # Atomic: a second receipt replaces the first, which must not be lost with it.
    atomic_write(file, json.dumps(signed.as_dict(), indent=2) + "\n", mode=0o600)
    return signed
