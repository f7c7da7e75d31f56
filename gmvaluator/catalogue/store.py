"""Opening a catalogue, and the object that programs hold: reads from any thread, one writing call at a time."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, insert, select, update

from gmvaluator.catalogue.claims_import import ClaimImporter, ClaimRow, ImportedClaims, RejectedRow, by_work
from gmvaluator.catalogue.reader import CatalogueReader, index_run
from gmvaluator.catalogue.records import IndexRun, NewWork, Recorded, check_data_set, check_model_version
from gmvaluator.catalogue.removal import Removal, add_tombstones, erase_sources, record_purge
from gmvaluator.catalogue.schema import (
    REVISION,
    data_sets,
    generators,
    index_runs,
    owner_references,
    owners,
    sources,
)
from gmvaluator.catalogue.vault import Vault
from gmvaluator.catalogue.writer import MAX_BATCH, BatchRecorder, delete_references
from gmvaluator.errors import Conflict, InvalidInput, MissingData, NotFound, PreconditionFailed
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.ports import Generator
from gmvaluator.storage.database import Database, DataLocation, as_location, location_in
from gmvaluator.storage.schema import insert_missing, utc_text
from gmvaluator.storage.sqlite import rewrite
from gmvaluator.valuation.policy import load_policy

FILE_NAME = "catalogue.sqlite"
KEY_FOLDER = "keys"
POLICY_FOLDER = "policies"


def open_catalogue(place: Path | DataLocation, write: bool = False) -> Catalogue:
    """Open the catalogue of a place, or of a data folder; a writer creates or upgrades it first.

    Raises AlreadyHeld if another process writes its file, MissingData if a reader finds none, PreconditionFailed
    if its schema is not this version's or its key folder is gone, Unavailable if PostgreSQL is.
    """
    where = as_location(place)
    location = location_in(where, FILE_NAME)
    if not write and isinstance(location, Path) and not location.is_file():
        raise MissingData(
            f"there is no catalogue in {where.folder}: make one by `gmvaluator index add SOURCE`, "
            "or name its folder by --data"
        )
    database = Database(location, REVISION, write)
    try:
        catalogue = Catalogue(database, Vault(where.folder / KEY_FOLDER), where.folder / POLICY_FOLDER)
        if write:
            catalogue.prepare_keys()
    except BaseException:
        database.close()
        raise
    return catalogue


class Catalogue(CatalogueReader):
    """A catalogue. Reading is safe from any thread; writing lets one thread in at a time.

    Use as a context manager, or `close` it.
    """

    def __init__(self, database: Database, vault: Vault, policies: Path) -> None:
        super().__init__(database.reader, vault)
        self._database = database
        self._policies = policies
        self._one_writer = threading.Lock()

    def prepare_keys(self) -> None:
        """Make the secret that finds owners again, before the first owner. Raises PreconditionFailed if it is lost."""
        if self._vault.has_secret():
            return
        with self._writing():
            if self._vault.has_secret():
                return  # another writer has made it, and perhaps owners, since we looked
            if self.counts().owners:
                raise PreconditionFailed(
                    "the catalogue has owners, but its key folder is gone: restore DATA/keys from a backup"
                )
            self._vault.create_secret()

    def record(self, batch: Sequence[NewWork]) -> Recorded:
        """Add works with their sources, owners and claims in one transaction; what is there already is left alone.

        Works under a tombstone are refused. Raises InvalidInput if the batch is over 5,000.
        """
        if len(batch) > MAX_BATCH:
            raise InvalidInput(f"{len(batch)} works are too many for one batch: send {MAX_BATCH} at most")
        with self._writing() as connection:
            return BatchRecorder(connection, self._vault, _now()).record(batch)

    def add_data_set(self, name: str) -> None:
        """Make a data set known before its first work is."""
        row = {"name": check_data_set(name), "added_at": _now()}
        with self._writing() as connection:
            connection.execute(insert_missing(connection, data_sets), row)

    def add_generator(self, generator: Generator, replace: bool = False) -> None:
        """Register a generator; doing it again changes nothing.

        Raises InvalidInput or InvalidPolicy if a name cannot be used, PreconditionFailed if a data set is
        unknown, Conflict if it is registered otherwise and not to be replaced.
        """
        self._check_generator(generator)
        row = {**asdict(generator), "data_sets": list(generator.data_sets), "added_at": _now()}
        with self._writing() as connection:
            _refuse_unknown_data_sets(connection, generator)
            this = generators.c.model_version == generator.model_version
            known = connection.execute(select(generators).where(this)).one_or_none()
            if known is None:
                connection.execute(insert(generators), row)
            elif replace:
                connection.execute(update(generators).where(this).values(row))
            elif any(known._mapping[name] != row[name] for name in ("collection", "data_sets", "policy")):
                raise Conflict(
                    f"generator {generator.model_version} is registered otherwise: see `gmvaluator generators list`, "
                    "and use --replace to change it"
                )

    def add_tombstones(self, removals: Sequence[Removal], reason: str) -> None:
        """Keep works from being recorded again, by their content and by where they were found."""
        with self._writing() as connection:
            add_tombstones(connection, self._vault, removals, reason, _now())

    def erase_sources(self, ids: Collection[TrainingImageId]) -> int:
        """Forget key, URI, title and labels of works; what an owner was paid for them, and by what right, stays."""
        with self._writing() as connection:
            return erase_sources(connection, ids)

    def record_purge(self, begun_at: datetime) -> None:
        """Nothing of what was removed until `begun_at` is left."""
        with self._writing() as connection:
            record_purge(connection, utc_text(begun_at), _now())

    def import_claims(self, rows: Iterable[ClaimRow | RejectedRow], partial: bool = False) -> ImportedClaims:
        """Record rows of rights, all rows of one work together; the same rows again change nothing.

        A row replaces the claim of the same work, owner, origin and valid_from. By each origin the parts of a work
        sum to one whenever there are any, or all rows of the work are rejected; partial: less than one is right too.
        """
        counted, wanted = ImportedClaims(), []
        for row in rows:
            if isinstance(row, ClaimRow):
                wanted.append(row)
            else:
                counted.rows += 1
                counted.rejected.append(row)
        with self._writing() as connection:
            grouped = list(by_work(connection, wanted, counted).items())
        for start in range(0, len(grouped), MAX_BATCH):
            with self._writing() as connection:
                importer = ClaimImporter(connection, self._vault, _now(), partial)
                importer.take(grouped[start : start + MAX_BATCH], counted)
        return counted

    def erase_owner(self, owner_id: OwnerId) -> int:
        """Make an owner's name, contact and manifest id unreadable for ever; the number of references removed.

        Works, claims and credits keep its UUID. The key goes first: whatever happens after that, nobody can read the
        references again. Raises NotFound.
        """
        with self._writing() as connection:
            if connection.execute(select(owners.c.owner_id).where(owners.c.owner_id == owner_id)).first() is None:
                raise NotFound(f"there is no owner {owner_id}")
            self._vault.destroy_key(owner_id)
            return delete_references(connection, owner_id, _now())

    def rewrite(self) -> bool:
        """Write the database anew, so that what was removed is nowhere in it; see `database.rewriting.rewrite`."""
        with self._one_writer:
            return rewrite(self._database.writer, [owner_references.name, sources.name])

    def begin_index_run(self, data_set: str, source: str) -> IndexRun:
        """Begin to index a source, or continue its last run if that one did not finish."""
        last = self.last_index_run(check_data_set(data_set), source)
        if last is not None and not last.finished:
            return last
        row = {"data_set": data_set, "source": source, "position": 0, "counts": {}}
        with self._writing() as connection:
            connection.execute(insert(index_runs), {**row, "started_at": _now(), "updated_at": _now()})
            query = select(index_runs).order_by(index_runs.c.run_id.desc()).limit(1)
            return index_run(connection.execute(query).one())

    def advance_index_run(
        self,
        run_id: int,
        position: int,
        counts: Mapping[str, int],
        finished: bool = False,
        works: Collection[TrainingImageId] = (),
    ) -> IndexRun:
        """Note how far a run has come; call it after what lies before `position` is durable. Raises NotFound.

        works: what was written last, if it was any.
        """
        values: dict[str, Any] = {"position": position, "counts": dict(counts), "updated_at": _now()}
        if works:
            values["last_works"] = sorted(str(one) for one in set(works))
        if finished:
            values["finished_at"] = _now()
        this = index_runs.c.run_id == run_id
        with self._writing() as connection:
            if connection.execute(update(index_runs).where(this).values(values)).rowcount != 1:
                raise NotFound(f"there is no index run {run_id}")
            return index_run(connection.execute(select(index_runs).where(this)).one())

    def close(self) -> None:
        """Close all connections and let another writer in."""
        self.stop_marking()
        self._database.close()

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._one_writer, self._database.writer.begin() as connection:
            yield connection

    def _check_generator(self, generator: Generator) -> None:
        check_model_version(generator.model_version)
        check_data_set(generator.collection)
        if not generator.data_sets:
            raise InvalidInput(f"generator {generator.model_version} needs a data set: name those it was trained on")
        load_policy(generator.policy, self._policies)


def _refuse_unknown_data_sets(connection: Connection, generator: Generator) -> None:
    known = set(connection.execute(select(data_sets.c.name)).scalars())
    unknown = [name for name in generator.data_sets if name not in known]
    if unknown:
        raise PreconditionFailed(
            f"no data set {', '.join(unknown)} was indexed (known: {', '.join(sorted(known)) or 'none'}); "
            "index it first by `gmvaluator index add SOURCE --data-set NAME`"
        )


def _now() -> str:
    return utc_text(datetime.now(UTC))


@contextmanager
def open_if_present(place: DataLocation) -> Iterator[Catalogue | None]:
    """The catalogue of a place; None if it has none."""
    try:
        catalogue = open_catalogue(place)
    except MissingData:
        yield None
        return
    with catalogue:
        yield catalogue
