"""Rights kept in memory: the same works are near again and again, and a question to the database costs milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from gmvaluator.catalogue.reader import CatalogueReader, ChangeMark, DatedCard
from gmvaluator.ids import TrainingImageId
from gmvaluator.ports import Generator, WorkCard
from gmvaluator.storage.schema import utc_text

MAX_CARDS = 200_000
"""Cards kept, about 1 KB each; over that they are forgotten and read anew."""


@dataclass(frozen=True, slots=True)
class _Memory:
    """What was read while the catalogue was as `mark` says."""

    mark: ChangeMark | None
    generators: dict[str, Generator] = field(default_factory=dict)
    cards: dict[TrainingImageId, DatedCard] = field(default_factory=dict)


class CachedRights:
    """`ports.RightsReader` over a catalogue. What is remembered is forgotten as soon as the catalogue changes.

    Where a change cannot be told cheaply (PostgreSQL) nothing is remembered. Safe from any thread.
    """

    def __init__(self, catalogue: CatalogueReader) -> None:
        self._catalogue = catalogue
        self._memory = _Memory(None)

    def generator(self, model_version: str) -> Generator:
        """The operator's entry for a generator. Raises UnknownGenerator."""
        memory = self._current()
        found = memory.generators.get(model_version)
        if found is None:
            found = self._catalogue.generator(model_version)
            if memory.mark is not None:
                memory.generators[model_version] = found
        return found

    def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:
        """Cards of `ids` with the rights valid at `at`; reads those that are not remembered."""
        memory, moment = self._current(), utc_text(at)
        found, missing = _split(memory, ids, moment)
        if missing:
            read = self._catalogue.dated_works(missing, at)
            if memory.mark is not None:
                if len(memory.cards) + len(read) > MAX_CARDS:
                    memory.cards.clear()
                memory.cards.update(read)
            found.update((one, dated.card) for one, dated in read.items())
        return found

    def cached_works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard] | None:
        """As `works`, without reading: None unless all of `ids` are remembered. Never blocks."""
        found, missing = _split(self._current(), ids, utc_text(at))
        return None if missing else found

    def _current(self) -> _Memory:
        mark = self._catalogue.change_mark()
        memory = self._memory
        if mark is None or memory.mark != mark:
            memory = self._memory = _Memory(mark)
        return memory


def _split(
    memory: _Memory, ids: Sequence[TrainingImageId], moment: str
) -> tuple[dict[TrainingImageId, WorkCard], list[TrainingImageId]]:
    found: dict[TrainingImageId, WorkCard] = {}
    missing: list[TrainingImageId] = []
    for one in ids:
        dated = memory.cards.get(one)
        if dated is not None and dated.valid_from <= moment < dated.valid_to:
            found[one] = dated.card
        else:
            missing.append(one)
    return found, missing
