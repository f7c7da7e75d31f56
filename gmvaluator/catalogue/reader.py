"""Read access to all of the catalogue: besides rights, what is indexed, removed or opted out, and how far runs came."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import Connection, Row, func, select

from gmvaluator.catalogue.corrections import data_set_origin
from gmvaluator.catalogue.ownership import Ownership, count_ownership, held_works
from gmvaluator.catalogue.records import IndexRun, OwnerReference
from gmvaluator.catalogue.removal import (
    OptedOut,
    OptedOutWorks,
    Selected,
    Selection,
    active_works,
    known_names,
    opted_out_works,
    select_removals,
)
from gmvaluator.catalogue.rights import CatalogueRights, check_count, first_sources
from gmvaluator.catalogue.schema import (
    claims,
    data_sets,
    former_claims,
    generators,
    index_runs,
    owners,
    sources,
    tombstones,
    works,
)
from gmvaluator.catalogue.tombstones import Record, Removal, Restorable, removed_among, restorable, tombstoned, unpurged
from gmvaluator.catalogue.writer import erased_among, find_owners
from gmvaluator.errors import NotFound, PreconditionFailed
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.storage.schema import utc_text
from gmvaluator.text import normal_identifier


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of rows of the catalogue's main tables."""

    works: int
    sources: int
    owners: int
    claims: int
    data_sets: int
    generators: int


class CatalogueReader(CatalogueRights):
    """Read access to all of a catalogue. Thread-safe."""

    def owner_of_manifest_id(self, manifest_id: str, namespace: str = "") -> OwnerId:
        """Return the owner with this id in manifests of `namespace`.

        Raises NotFound, or PreconditionFailed for an owner who was erased, so that no other is taken for them.
        """
        key = namespace, normal_identifier(manifest_id)
        with self._engine.connect() as connection:
            known = find_owners(connection, self._vault, [key])
            erased = not known and erased_among(connection, self._vault, [key])
        if erased:
            raise PreconditionFailed("the owner with this id was erased, and the id leads nowhere: give the UUID")
        if key not in known:
            raise NotFound("no owner is known by this id: give the UUID, or the manifest's owner_id as it was imported")
        return known[key]

    def erased_owners(self, owners: Collection[OwnerReference]) -> set[OwnerReference]:
        """Return those of `owners` (10,000 at most) who were erased."""
        check_count(owners)
        if not owners:
            return set()
        with self._engine.connect() as connection:
            keys = erased_among(connection, self._vault, {(owner.namespace, owner.manifest_id) for owner in owners})
        return {owner for owner in owners if (owner.namespace, owner.manifest_id) in keys}

    def snapshot(self) -> AbstractContextManager[Connection]:
        """Return a read-only connection, for the queries of other modules."""
        return self._engine.connect()

    def known(self, sha256s: Collection[str]) -> set[str]:
        """Return those of `sha256s` (10,000 at most) whose images are in the catalogue."""
        check_count(sha256s)
        with self._engine.connect() as connection:
            return set(connection.execute(select(works.c.sha256).where(works.c.sha256.in_(sha256s))).scalars())

    def tombstoned(self, sha256s: Collection[str]) -> set[str]:
        """Return those of `sha256s` (10,000 at most) that have a tombstone and must stay out."""
        check_count(sha256s)
        query = select(tombstones.c.sha256).where(tombstones.c.sha256.in_(sha256s))
        with self._engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def removed_among(self, records: Collection[Record]) -> set[Record]:
        """Return those of `records` (10,000 at most) that a removal named, and that stay out whatever they hold."""
        check_count(records)
        with self._engine.connect() as connection:
            return removed_among(connection, self._vault, records)

    def removals(self, selection: Selection) -> Selected:
        """Return the works that a selection matches."""
        with self._engine.connect() as connection:
            return select_removals(connection, self._vault, selection, utc_text(datetime.now(UTC)))

    def restorable(self, selection: Selection) -> Restorable:
        """Return the tombstones that a selection matches."""
        names = selection.keys | selection.names
        with self._engine.connect() as connection:
            return restorable(
                connection,
                self._vault,
                selection.sha256s,
                names,
                selection.owners,
                selection.data_set,
                utc_text(datetime.now(UTC)),
            )

    def opted_out_works(self, data_set: str | None, opted_out: OptedOut) -> OptedOutWorks:
        """Return indexed works whose owners opted out. data_set: where keys are looked up; None for everywhere."""
        with self._engine.connect() as connection:
            return opted_out_works(connection, data_set, opted_out)

    def known_names(self, data_set: str | None, names: Collection[str]) -> set[str]:
        """Return those of `names` that are a key (in this data set), URI or URL of a work, indexed or removed."""
        with self._engine.connect() as connection:
            return known_names(connection, self._vault, data_set, names)

    def known_or_removed(self, sha256s: Collection[str]) -> set[str]:
        """Return those of `sha256s` whose images are in the catalogue, or were removed or kept out in advance."""
        with self._engine.connect() as connection:
            return active_works(connection, sha256s) | tombstoned(connection, sha256s)

    def unpurged(self) -> list[Removal]:
        """Return works that were removed since the last purge, without their sources."""
        with self._engine.connect() as connection:
            return unpurged(connection)

    def first_seen(self, ids: Collection[TrainingImageId]) -> dict[TrainingImageId, int]:
        """Return the number of each work's first source, in the order of recording; `ids`: 10,000 at most."""
        check_count(ids)
        query = select(sources.c.training_image_id, func.min(sources.c.source_id))
        query = query.where(sources.c.training_image_id.in_(ids)).group_by(sources.c.training_image_id)
        with self._engine.connect() as connection:
            return {TrainingImageId(row[0]): row[1] for row in connection.execute(query)}

    def data_sets(self) -> list[str]:
        """Return the names of all data sets, ascending."""
        with self._engine.connect() as connection:
            return list(connection.execute(select(data_sets.c.name).order_by(data_sets.c.name)).scalars())

    def counts(self) -> Counts:
        """Return the numbers of rows of the main tables."""
        tables = (works, sources, owners, claims, data_sets, generators)
        with self._engine.connect() as connection:
            return Counts(
                *(connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables)
            )

    def latest_works(self, data_set: str, source: str) -> list[TrainingImageId]:
        """Return the works of the last batch of runs whose source starts with `source`, but not those removed since."""
        last_batch = (
            select(index_runs.c.last_works)
            .where(index_runs.c.data_set == data_set, index_runs.c.source.startswith(source, autoescape=True))
            .where(index_runs.c.last_works.is_not(None))
            .order_by(index_runs.c.updated_at.desc(), index_runs.c.run_id.desc())
            .limit(1)
        )
        with self._engine.connect() as connection:
            ids = [UUID(text) for text in connection.execute(last_batch).scalar_one_or_none() or ()]
            query = select(works.c.training_image_id).where(works.c.training_image_id.in_(ids))
            rows = connection.execute(query.where(works.c.sha256.not_in(select(tombstones.c.sha256))))
            return [TrainingImageId(work) for work in rows.scalars()]

    def sizes_and_licences(self, ids: Sequence[TrainingImageId]) -> dict[TrainingImageId, tuple[int, int, str]]:
        """Return width, height and the first source's licence of those of `ids` (10,000 at most) that are known."""
        check_count(ids)
        with self._engine.connect() as connection:
            licences = {row.training_image_id: row.license for row in first_sources(connection, ids)}
            query = select(works.c.training_image_id, works.c.width, works.c.height)
            rows = connection.execute(query.where(works.c.training_image_id.in_(ids)))
            return {row[0]: (row[1], row[2], licences.get(row[0], "")) for row in rows}

    def ownership(self, data_set: str | None = None) -> Ownership:
        """Count the works of a data set, or of all, that have an owner now, or whose claims compete."""
        with self._engine.connect() as connection:
            return count_ownership(connection, utc_text(datetime.now(UTC)), data_set)

    def corrections(self, data_set: str, since: datetime) -> int:
        """Return how many claims of a data set were replaced since then by other owners that its records name."""
        query = select(func.count()).select_from(former_claims)
        of_data_set = former_claims.c.origin == data_set_origin(data_set)
        with self._engine.connect() as connection:
            return connection.execute(
                query.where(of_data_set, former_claims.c.replaced_at >= utc_text(since))
            ).scalar_one()

    def held_works(self, ids: Collection[TrainingImageId]) -> set[TrainingImageId]:
        """Return those of `ids` that are held now, because their claims compete."""
        with self._engine.connect() as connection:
            return held_works(connection, utc_text(datetime.now(UTC)), ids)

    def last_index_run(self, data_set: str, source: str) -> IndexRun | None:
        """Return the newest run of a source into a data set; None if it was never indexed."""
        query = select(index_runs).where(index_runs.c.data_set == data_set, index_runs.c.source == source)
        with self._engine.connect() as connection:
            row = connection.execute(query.order_by(index_runs.c.run_id.desc()).limit(1)).one_or_none()
        return None if row is None else index_run(row)


def index_run(row: Row[tuple[object, ...]]) -> IndexRun:
    """Convert a row of `index_runs`."""
    value = row._mapping
    return IndexRun(
        value["run_id"],
        value["data_set"],
        value["source"],
        value["position"],
        value["counts"],
        value["finished_at"] is not None,
    )
