"""Fakes for tests of the indexer: a catalogue and a shard's progress that record what they are given."""

from collections.abc import Collection, Mapping, Sequence

from gmvaluator.catalogue.records import NewWork, OwnerReference, Recorded
from gmvaluator.catalogue.tombstones import Record
from gmvaluator.ids import TrainingImageId
from indexer.report import Counts, LeftOut


class RecordingCatalogue:
    """A catalogue in memory.

    tombstones: SHA-256s removed before the run. removed_keys: keys removed before it, of every data set. removed_late:
    SHA-256s to refuse when they are recorded, as if another process removed them meanwhile. erased: manifest ids of
    owners who were erased.
    """

    def __init__(self, tombstones: Collection[str] = (), removed_keys: Collection[str] = ()) -> None:
        self.works: list[NewWork] = []
        self.removed_late: set[str] = set()
        self.erased: set[str] = set()
        self._tombstones = set(tombstones)
        self._removed_keys = set(removed_keys)

    def tombstoned(self, sha256s: Collection[str]) -> set[str]:
        return self._tombstones & set(sha256s)

    def removed_among(self, records: Collection[Record]) -> set[Record]:
        return {record for record in records if record.key in self._removed_keys}

    def erased_owners(self, owners: Collection[OwnerReference]) -> set[OwnerReference]:
        return {owner for owner in owners if owner.manifest_id in self.erased}

    def known(self, sha256s: Collection[str]) -> set[str]:
        return {work.sha256 for work in self.works} & set(sha256s)

    def record(self, batch: Sequence[NewWork]) -> Recorded:
        refused = tuple(work.training_image_id for work in batch if work.sha256 in self.removed_late)
        self.works.extend(work for work in batch if work.training_image_id not in refused)
        return Recorded(len(batch) - len(refused), 0, 0, refused)

    def sizes_and_licences(self, ids: Sequence[TrainingImageId]) -> Mapping[TrainingImageId, tuple[int, int, str]]:
        return dict.fromkeys(ids, (4, 3, "CC0"))


class Killed(Exception):
    """Stands for the end of the process."""


class RecordingLog:
    """A shard's progress in memory; it raises Killed once `fail_after` batches are recorded."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.position = 0
        self.left_out: list[tuple[int, LeftOut]] = []
        self._batches_left = fail_after

    def advance(
        self,
        position: int,
        batch: Counts,
        left_out: Sequence[tuple[int, LeftOut]],
        works: Collection[TrainingImageId] = (),
    ) -> None:
        if self._batches_left == 0:
            raise Killed
        if self._batches_left is not None:
            self._batches_left -= 1
        self.position = position
        self.left_out.extend(left_out)
