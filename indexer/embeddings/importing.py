"""Import of embeddings into a collection, without images and without models."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import pyarrow.parquet as pq

from gmvaluator.catalogue.records import MAX_PIXELS_A_SIDE, NewWork, OwnerReference
from gmvaluator.errors import GmvaluatorError, InvalidManifest
from gmvaluator.ids import TrainingImageId, training_image_id
from gmvaluator.index.schema import KEY_DATA_SET, KEY_LOCAL_FEATURES
from gmvaluator.index.vectors import checked_vector, checked_vectors, with_checksum
from gmvaluator.keypoints import LocalFeatures
from gmvaluator.ports import Point, VectorStore
from gmvaluator.profile import ProfileIdentity
from indexer.embeddings.exporting import EmbeddedShard
from indexer.opt_outs import NO_OPT_OUTS, OptOutList
from indexer.pipeline import Advance, ahead
from indexer.report import OPT_OUT, REMOVED, Counts, LeftOut
from indexer.sources.columns import Columns, described
from indexer.sources.item import Item, Shard, Source
from indexer.writing import Candidate, ShardLog, WorkRecorder, payload, removal_reasons

BATCH_ROWS = 1_024
"""Rows of one batch; a batch costs a few commits, whatever its size."""

BATCHES_AHEAD = 2
"""Batches that are read and checked while another is written."""

_SHA256_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class ImportedRow:
    """A row that can be indexed. works: the image, once per data set that it belongs to."""

    works: list[NewWork]
    point: Point


Entry = ImportedRow | LeftOut


@dataclass
class EmbeddingImporter:
    """An importer of shards of embeddings into one collection.

    files: the shards' files, by the names of the source's shards. own_data_sets: whether rows that name data sets keep
    them.
    """

    store: VectorStore
    catalogue: WorkRecorder
    profile: ProfileIdentity
    files: Mapping[str, EmbeddedShard]
    data_set: str
    opt_outs: OptOutList = NO_OPT_OUTS
    heed_signals: bool = True
    own_data_sets: bool = False

    def run(
        self,
        shard: Shard,
        start: int,
        log: ShardLog,
        advance: Advance = lambda counts, left_out: None,  # noqa: ARG005
        stopping: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Import a shard; see `Indexer.run`."""
        position = start
        batches = ahead(partial(self._batches, self.files[shard.name], start), BATCHES_AHEAD)
        try:
            for entries in batches:
                counts, left_out, works = self._write(entries)
                rows = [(position + offset, row) for offset, row in left_out]
                position += len(entries)
                log.advance(position, counts, rows, works)
                advance(counts, [row for _, row in rows])
                if stopping():
                    return False
            return True
        finally:
            batches.close()

    def _batches(self, shard: EmbeddedShard, start: int) -> Generator[list[Entry], None, None]:
        table = pq.ParquetFile(shard.metadata)
        columns = Columns(table.schema_arrow.names)
        rows = islice((row for batch in table.iter_batches(BATCH_ROWS) for row in batch.to_pylist()), start, None)
        position = start
        while batch := list(islice(rows, BATCH_ROWS)):
            recall, perceptual = shard.vectors(position, position + len(batch), self.profile)
            yield [
                self._entry(columns, row, f"row {position + offset} of {shard.metadata.name}", *vectors)
                for offset, (row, *vectors) in enumerate(zip(batch, recall, perceptual, strict=True))
            ]
            position += len(batch)

    def _entry(self, columns: Columns, row: dict[str, object], where: str, *vectors: object) -> Entry:
        key = where
        try:
            local_features = row.pop(KEY_LOCAL_FEATURES, None)
            fields = columns.fields(row, where)
            key = fields.get("key") or where
            refused = self._refused(fields, key)
            if refused is not None:
                return refused
            works = [self._work(fields, key, data_set) for data_set in self._data_sets(row)]
            return ImportedRow(works, self._point(works, _checked_features(local_features), *vectors))
        except GmvaluatorError as error:
            return LeftOut(key, str(error))

    def _refused(self, fields: dict[str, str], key: str) -> LeftOut | None:
        """Return the row as left out if an opt-out says so."""
        uri, url, sha256 = fields.get("file_name", ""), fields.get("url", ""), fields.get("sha256", "").lower()
        signal = f"its source says: {fields['opt_out']}" if fields["opt_out"] and self.heed_signals else ""
        names = self.opt_outs.named(fields.get("key", ""), url, uri)
        listed = (*names, *self.opt_outs.hashes(sha256))
        if not (signal or listed):
            return None
        by_key_alone = not signal and not set(listed) - set(self.opt_outs.named(key))
        reason = signal or f"the opt-out list has {names[0] if names else 'its SHA-256'}"
        return LeftOut(key, reason, OPT_OUT, uri or url, url, sha256, listed, by_key_alone)

    def _data_sets(self, row: dict[str, object]) -> list[str]:
        own = row.get(KEY_DATA_SET) if self.own_data_sets else None
        return [str(name) for name in own] if isinstance(own, list) and own else [self.data_set]

    def _work(self, fields: dict[str, str], key: str, data_set: str) -> NewWork:
        description = described(fields)
        width, height = _pixels(fields, "width"), _pixels(fields, "height")
        self.profile.check_size(width, height)
        sha256 = description["sha256"] or ""
        if len(sha256) != 64 or not _SHA256_DIGITS.issuperset(sha256):
            raise InvalidManifest("it has no sha256 of the image's file, by which works are known")
        owner_id, owner_name = description["owner"], description["owner_name"]
        owner = OwnerReference(owner_id, owner_name or owner_id) if owner_id else None
        return NewWork(
            training_image_id=training_image_id(sha256),
            sha256=sha256,
            width=width,
            height=height,
            data_set=data_set,
            key=key,
            uri=fields.get("file_name", "") or description["url"],
            url=description["url"],
            title=description["title"],
            license=description["license"],
            labels=description["labels"],
            owner=owner,
        )

    def _point(self, works: list[NewWork], local_features: str | None, recall: object, perceptual: object) -> Point:
        profile, work = self.profile, works[0]
        subject = f"training image {work.training_image_id}"
        return Point(
            work.training_image_id,
            checked_vector(recall, profile.recall_dim, f"the recall vector of {subject}"),  # type: ignore[arg-type]
            checked_vectors(perceptual, profile.perceptual_views, profile.perceptual_dim, subject),  # type: ignore[arg-type]
            {**payload(work, local_features), KEY_DATA_SET: [work.data_set for work in works]},
        )

    def _write(self, entries: Sequence[Entry]) -> tuple[Counts, list[tuple[int, LeftOut]], list[TrainingImageId]]:
        """Write points, then the catalogue; return the counts, the rows left out by offset, and the works indexed."""
        reasons = self._removed([entry for entry in entries if isinstance(entry, ImportedRow)])
        left_out: list[tuple[int, LeftOut]] = []
        kept: list[ImportedRow] = []
        for offset, entry in enumerate(entries):
            if isinstance(entry, LeftOut):
                left_out.append((offset, entry))
            elif entry.point.training_image_id in reasons:
                reason = reasons[entry.point.training_image_id]
                left_out.append((offset, LeftOut(entry.works[0].key, reason, REMOVED)))
            else:
                kept.append(entry)
        points = self._upsert(kept)
        counts = Counts.of(len(entries), points, len(kept) - points, (row for _, row in left_out))
        return counts, left_out, [row.point.training_image_id for row in kept]

    def _removed(self, rows: Sequence[ImportedRow]) -> dict[TrainingImageId, str]:
        """Return the reason for each work that was removed before."""
        works = [work for row in rows for work in row.works]
        reasons = removal_reasons(self.catalogue, map(Candidate.of, works))
        return {work.training_image_id: reasons[image] for work in works if (image := Candidate.of(work)) in reasons}

    def _upsert(self, rows: Sequence[ImportedRow]) -> int:
        """Write rows and return the number of new points; an image that is indexed already joins further data sets."""
        fresh: dict[TrainingImageId, Point] = {}
        joining: dict[str, set[TrainingImageId]] = {}
        present = self.store.existing(sorted({row.point.training_image_id for row in rows}))
        for row in rows:
            image = row.point.training_image_id
            # The first row of a new image becomes its point; later ones only add their data sets.
            if image not in present and fresh.setdefault(image, row.point) is row.point:
                continue
            for work in row.works:
                joining.setdefault(work.data_set, set()).add(image)
        if fresh:
            self.store.upsert([with_checksum(point) for point in fresh.values()])
        for data_set, ids in joining.items():
            self.store.join_data_set(sorted(ids), data_set)
        refused = self.catalogue.record([work for row in rows for work in row.works]).refused
        if refused:
            # Another process removed them while they were in flight; the next run counts them as removed.
            self.store.remove(list(refused))
        return len(fresh)


def embeddings_source(files: Mapping[str, EmbeddedShard], profile: ProfileIdentity) -> Source:
    """Return the shards as a source that only the importer reads. Raises InvalidManifest if one does not fit."""
    shards = [Shard(name, shard.fingerprint, shard.rows(profile), _no_items) for name, shard in files.items()]
    return Source(str(next(iter(files.values())).folder.resolve()), shards)


def _no_items(start: int) -> Iterator[Item]:
    raise AssertionError(f"embeddings hold no images to read, from {start} on")


def _checked_features(text: object) -> str | None:
    """Return local features as text; None if there are none. Raises InvalidManifest, InvalidVector."""
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidManifest(f"its {KEY_LOCAL_FEATURES} are {type(text).__name__}, not text: export the index again")
    LocalFeatures.from_text(text)
    return text


def _pixels(fields: dict[str, str], name: str) -> int:
    try:
        pixels = int(float(fields.get(name, "")))
    except ValueError:
        pixels = 0
    if not 1 <= pixels <= MAX_PIXELS_A_SIDE:
        raise InvalidManifest(f"its {name} is {fields.get(name, '')!r}: give it in pixels")
    return pixels
