"""What pages are made of: the ledger, the catalogue where there is one, and pictures."""

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
    "unattributed": "Nobody (no work was near enough)",
    "suspense": "Suspense (owner unknown)",
    "held": "Held (claims compete or disputed)",
    "paid": "Paid out",
    "issuance": "Issued",
}


@dataclass(frozen=True, slots=True)
class Sources:
    """Read-only; safe from any thread. catalogue: None where there is only a ledger, and accounts have no names."""

    place: DataLocation
    ledger: Ledger
    catalogue: Catalogue | None
    copies: NearDuplicates

    def names(self, accounts: Collection[str]) -> dict[str, str]:
        """Account to what people call it."""
        owners = {account: owner for account in accounts if (owner := owner_of(account)) is not None}
        known = self._owner_names(list(owners.values()))
        return {one: known[owners[one]] if one in owners else ACCOUNT_NAMES.get(one, one) for one in accounts}

    def cards(self, works: Collection[TrainingImageId]) -> dict[TrainingImageId, WorkCard]:
        """Cards of works with today's rights; without a catalogue there are none."""
        if self.catalogue is None or not works:
            return {}
        return self.catalogue.works(list(works), datetime.now(UTC))

    def thumbnail(self, work: uuid.UUID) -> Path:
        """Where the thumbnail of a work lies, if it is kept."""
        return thumbnail_path(thumbnails_folder(self.place.folder), work)

    def generated_thumbnail(self, sha256: str) -> Path:
        """Where the thumbnail of a generated image lies, if it is kept."""
        return generated_path(generated_folder(self.place.folder), sha256)

    def _owner_names(self, owners: Sequence[OwnerId]) -> dict[OwnerId, str]:
        if self.catalogue is None:
            return {owner: f"Owner {str(owner)[:8]}" for owner in owners}
        return self.catalogue.display_names(owners)


@contextmanager
def open_sources(place: DataLocation, index_url: str = "") -> Iterator[Sources]:
    """Open what is there. Raises MissingData if there is no ledger yet, saying how one comes to be."""
    try:
        ledger = open_ledger(place)
    except MissingData as error:
        raise MissingData(f"{error}; the dashboard shows what the ledger holds") from error
    with ledger, open_if_present(place) as catalogue:
        copies = NearDuplicates(index_location(place.folder, index_url), catalogue)
        try:
            yield Sources(place, ledger, catalogue, copies)
        finally:
            copies.close()
