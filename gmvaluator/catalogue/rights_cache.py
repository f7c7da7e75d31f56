"""A cache of rights: successive images are near the same works, and a query takes milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from gmvaluator.catalogue.rights import CatalogueRights, ChangeMark, DatedCard
from gmvaluator.ids import TrainingImageId
from gmvaluator.ports import Generator, WorkCard
from gmvaluator.storage.schema import utc_text

MAX_CARDS = 200_000
"""Limit of cached cards, about 1 KB each; the cache is emptied before it would exceed it."""


@dataclass(frozen=True, slots=True)
class _Cache:
    """Rows that were read while the catalogue had the mark `mark`."""

    mark: ChangeMark | None
    generators: dict[str, Generator] = field(default_factory=dict)
    cards: dict[TrainingImageId, DatedCard] = field(default_factory=dict)


class CachedRights:
    """`ports.RightsReader` over a catalogue, with a cache that is dropped as soon as the catalogue changes.

    On PostgreSQL, which has no cheap change mark, nothing is cached. Thread-safe.
    """

    def __init__(self, catalogue: CatalogueRights) -> None:
        self._catalogue = catalogue
        self._cache = _Cache(None)

    def generator(self, model_version: str) -> Generator:
        """Return a registered generator. Raises UnknownGenerator."""
        cache = self._current()
        generator = cache.generators.get(model_version)
        if generator is None:
            generator = self._catalogue.generator(model_version)
            if cache.mark is not None:
                cache.generators[model_version] = generator
        return generator

    def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:
        """Return cards of `ids` with the rights valid at `at`; read those that are not cached."""
        cache, moment = self._current(), utc_text(at)
        cards, missing = _split(cache, ids, moment)
        if missing:
            read = self._catalogue.dated_works(missing, at)
            if cache.mark is not None:
                if len(cache.cards) + len(read) > MAX_CARDS:
                    cache.cards.clear()
                cache.cards.update(read)
            cards.update((work, dated.card) for work, dated in read.items())
        return cards

    def cached_works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard] | None:
        """Return what `works` returns if all of `ids` are cached, or None. Never blocks."""
        cards, missing = _split(self._current(), ids, utc_text(at))
        return None if missing else cards

    def _current(self) -> _Cache:
        # The mark is read before the rows: a change in between costs a miss, never a wrong card.
        mark = self._catalogue.change_mark()
        cache = self._cache
        if mark is None or cache.mark != mark:
            cache = self._cache = _Cache(mark)
        return cache


def _split(
    cache: _Cache, ids: Sequence[TrainingImageId], moment: str
) -> tuple[dict[TrainingImageId, WorkCard], list[TrainingImageId]]:
    cards: dict[TrainingImageId, WorkCard] = {}
    missing: list[TrainingImageId] = []
    for work in ids:
        dated = cache.cards.get(work)
        if dated is not None and dated.valid_from <= moment < dated.valid_to:
            cards[work] = dated.card
        else:
            missing.append(work)
    return cards, missing
