"""Access to the data of the pages: the ledger, the catalogue if there is one, and pictures."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dashboard.figures.near_duplicates import NearDuplicates
from gmvaluator.accounts import owner_of
from gmvaluator.catalogue.store import Catalogue, open_if_present
from gmvaluator.errors import MissingData
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.images import generated_path, thumbnail_path
from gmvaluator.ledger.store import Ledger, open_ledger
from gmvaluator.ports import WorkCard
from gmvaluator.storage.data_folder import generated_folder, index_location, thumbnails_folder
from gmvaluator.storage.database import DataLocation

ACCOUNT_NAMES = {
    "unattributed": "Unattributed (no work was similar enough)",
    "suspense": "Suspense (owner unknown)",
    "held": "Held (competing claims or disputed)",
    "paid": "Paid out",
    "issuance": "Issued",
}
"""Display names of the accounts that belong to no owner."""


@dataclass(frozen=True, slots=True)
class DataAccess:
    """Read-only access to all data. Thread-safe.

    catalogue: None if there is only a ledger; owners and works then have no names.
    """

    place: DataLocation
    ledger: Ledger
    catalogue: Catalogue | None
    near_duplicates: NearDuplicates

    def names(self, accounts: Collection[str]) -> dict[str, str]:
        """Return the display name of each account."""
        owners = {account: owner for account in accounts if (owner := owner_of(account)) is not None}
        known = self._owner_names(list(owners.values()))
        return {
            account: known[owners[account]] if account in owners else ACCOUNT_NAMES.get(account, account)
            for account in accounts
        }

    def cards(self, works: Collection[TrainingImageId]) -> dict[TrainingImageId, WorkCard]:
        """Return cards of works with today's rights; without a catalogue there are none."""
        if self.catalogue is None or not works:
            return {}
        return self.catalogue.works(list(works), datetime.now(UTC))

    def thumbnail(self, work: uuid.UUID) -> Path:
        """Return the path of a work's thumbnail, which may not exist."""
        return thumbnail_path(thumbnails_folder(self.place.folder), work)

    def generated_thumbnail(self, sha256: str) -> Path:
        """Return the path of a generated image's thumbnail, which may not exist."""
        return generated_path(generated_folder(self.place.folder), sha256)

    def _owner_names(self, owners: Sequence[OwnerId]) -> dict[OwnerId, str]:
        if self.catalogue is None:
            return {owner: f"Owner {str(owner)[:8]}" for owner in owners}
        return self.catalogue.display_names(owners)


@contextmanager
def open_data(place: DataLocation, index_url: str = "") -> Iterator[DataAccess]:
    """Open the data that exists. Raises MissingData, with a hint, if there is no ledger yet."""
    try:
        ledger = open_ledger(place)
    except MissingData as error:
        raise MissingData(f"{error}; the dashboard shows what the ledger holds") from error
    with ledger, open_if_present(place) as catalogue:
        near_duplicates = NearDuplicates(index_location(place.folder, index_url), catalogue)
        try:
            yield DataAccess(place, ledger, catalogue, near_duplicates)
        finally:
            near_duplicates.close()
