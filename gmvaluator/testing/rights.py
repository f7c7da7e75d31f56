"""An in-memory catalogue of rights for tests: `ports.RightsReader` without a database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from gmvaluator.errors import UnknownGenerator
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.ports import Beneficiary, Generator, WorkCard

_UNKNOWN = Beneficiary("suspense", None, "(owner unknown)", 1_000_000)


class FakeRights:
    """Answers from what it was given; the rights of a work do not change with time."""

    def __init__(self, generators: Iterable[Generator] = (), cards: Iterable[WorkCard] = ()) -> None:
        self._generators = {generator.model_version: generator for generator in generators}
        self._cards = {card.training_image_id: card for card in cards}

    @classmethod
    def with_owners(
        cls,
        generators: Iterable[Generator],
        owner_of: Mapping[TrainingImageId, OwnerId],
    ) -> FakeRights:
        """Every work belongs to one owner, who is called by the first characters of the UUID."""
        return cls(generators, (_sole(work, owner_id) for work, owner_id in owner_of.items()))

    def generator(self, model_version: str) -> Generator:
        """The generator of this name. Raises UnknownGenerator."""
        try:
            return self._generators[model_version]
        except KeyError:
            known = ", ".join(sorted(self._generators)) or "none"
            raise UnknownGenerator(f"no generator {model_version!r} is registered (known: {known})") from None

    def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:  # noqa: ARG002
        """Cards of `ids`; a work it was not given is paid to suspense."""
        return {one: self._cards.get(one, WorkCard(one, "", "", (_UNKNOWN,))) for one in ids}

    def remembered(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard] | None:  # noqa: ARG002
        """Remembers nothing: `works` is asked."""
        return None


def _sole(work: TrainingImageId, owner_id: OwnerId) -> WorkCard:
    name = f"owner {str(owner_id)[:8]}"
    return WorkCard(work, str(work), "", (Beneficiary(f"owner:{owner_id}", owner_id, name, 1_000_000),))
