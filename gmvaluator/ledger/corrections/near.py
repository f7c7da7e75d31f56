"""Rights of candidates that a posting did not pay, from the catalogue, where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gmvaluator.catalogue.store import Catalogue, open_catalogue
from gmvaluator.database.place import Place
from gmvaluator.database.utc import from_utc_text
from gmvaluator.errors import MissingData
from gmvaluator.ids import TrainingImageId
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ports import WorkCard


@contextmanager
def rights_of(place: Place) -> Iterator[Catalogue | None]:
    """The catalogue of a place; None if it has none."""
    try:
        catalogue = open_catalogue(place)
    except MissingData:
        yield None
        return
    with catalogue:
        yield catalogue


def near_cards(place: Place, posting: StoredPosting) -> dict[TrainingImageId, WorkCard]:
    """Rights, at the generation's own time, of those who just missed being paid."""
    missed = [miss.training_image_id for miss in posting.evidence.near_misses]
    with rights_of(place) as rights:
        if rights is None:
            return {}
        return rights.works(missed, from_utc_text(posting.header.generated_at))
