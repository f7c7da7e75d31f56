"""The catalogue: opening it, and its read and write access. Reads are concurrent, writes run one at a time."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from sqlalchemy import Connection, Engine, delete, insert, select, update

from gmvaluator.catalogue.claims_import import (
    ClaimImporter,
    ClaimRow,
    ImportedClaims,
    RejectedRow,
    group_by_work,
    split_rejected,
)
from gmvaluator.catalogue.reader import CatalogueReader, index_run
from gmvaluator.catalogue.records import IndexRun, NewWork, Recorded, check_data_set, check_model_version
from gmvaluator.catalogue.removal import erase_sources
from gmvaluator.catalogue.schema import (
    REVISION,
    data_sets,
    generators,
    index_runs,
    owner_references,
    owners,
    sources,
)
from gmvaluator.catalogue.tombstones import Removal, Restorable, add_tombstones, record_purge, take_back
from gmvaluator.catalogue.vault import RehearsalVault, Vault
from gmvaluator.catalogue.writer import MAX_BATCH, BatchRecorder, delete_references, find_owners, keep_owner_out
from gmvaluator.errors import Conflict, InvalidInput, MissingData, NotFound, PreconditionFailed
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.ports import Generator
from gmvaluator.storage.database import Database, DataLocation, as_location, location_in
from gmvaluator.storage.schema import insert_missing, utc_text
from gmvaluator.storage.sqlite import rewrite
from gmvaluator.text import normal_identifier
from gmvaluator.valuation.policy import load_policy

FILE_NAME = "catalogue.sqlite"
"""Database file in the data folder."""

KEY_FOLDER = "keys"
"""Folder of the owners' keys, in the data folder."""

POLICY_FOLDER = "policies"
"""Folder of the operator's policies, in the data folder."""


def open_catalogue(place: Path | DataLocation, write: bool = False, *, create: bool = True) -> Catalogue:
    """Open the catalogue of a data location or folder; with `write`, create or upgrade it first.

    create: whether a writer begins one where there is none.

    Raises AlreadyHeld if another process writes its file, MissingData if there is none and none may be begun,
    PreconditionFailed if its schema is of another version or its key folder is gone, Unavailable if PostgreSQL is.
    """
    location = as_location(place)
    database_location = location_in(location, FILE_NAME)
    if write and not create:
        # A server's schema has to be looked for; a reader does that.
        open_catalogue(location).close()
    if not write and isinstance(database_location, Path) and not database_location.is_file():
        raise MissingData(
            f"there is no catalogue in {location.folder}: make one by `gmvaluator index add SOURCE`, "
            "or name its folder by --data"
        )
    database = Database(database_location, REVISION, write)
    try:
        catalogue = Catalogue(database, Vault(location.folder / KEY_FOLDER), location.folder / POLICY_FOLDER)
        if write:
            catalogue.prepare_keys()
    except BaseException:
        database.close()
        raise
    return catalogue


class Catalogue(CatalogueReader):
    """Read and write access to a catalogue. Thread-safe; one write runs at a time.

    Use it as a context manager, or `close` it.
    """

    def __init__(self, database: Database, vault: Vault, policies: Path) -> None:
        super().__init__(database.reader, vault)
        self._database = database
        self._policies = policies
        self._opened_at = _now()
        self._write_lock = threading.Lock()

    def prepare_keys(self) -> None:
        """Create the secret behind lookups of owners. Raises PreconditionFailed if there are owners and it is lost."""
        if self._vault.has_secret():
            return
        with self._writing():
            if self._vault.has_secret():
                return  # another writer created it, and perhaps owners, after the first check
            if self.counts().owners:
                raise PreconditionFailed(
                    "the catalogue has owners, but its key folder is gone: restore DATA/keys from a backup"
                )
            self._vault.create_secret()

    def record(self, batch: Sequence[NewWork]) -> Recorded:
        """Add works with their sources, owners and claims in one transaction; existing rows are left alone.

        A record that names another owner than before this catalogue was opened replaces the claim from now on. Works
        with a tombstone are refused. Raises InvalidInput if the batch is over 5,000.
        """
        if len(batch) > MAX_BATCH:
            raise InvalidInput(f"{len(batch)} works are too many for one batch: send {MAX_BATCH} at most")
        with self._writing() as connection:
            return BatchRecorder(connection, self._vault, _now(), self._opened_at).record(batch)

    def add_data_set(self, name: str) -> None:
        """Add a data set before its first work. Idempotent."""
        row = {"name": check_data_set(name), "added_at": _now()}
        with self._writing() as connection:
            connection.execute(insert_missing(connection, data_sets), row)

    def add_generator(self, generator: Generator, replace: bool = False) -> None:
        """Register a generator. Idempotent.

        Raises InvalidInput or InvalidPolicy if a name cannot be used, PreconditionFailed if a data set is unknown,
        Conflict if the generator is registered with other values and `replace` is false.
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

    def remove_generator(self, model_version: str) -> None:
        """Remove a generator's registration. Does nothing if there is none."""
        with self._writing() as connection:
            connection.execute(delete(generators).where(generators.c.model_version == model_version))

    def add_tombstones(self, removals: Sequence[Removal], reason: str) -> None:
        """Prevent works from being recorded again, and what the removals named from being read again."""
        with self._writing() as connection:
            add_tombstones(connection, self._vault, removals, reason, _now())

    def take_back(self, tombs: Restorable) -> int:
        """Delete tombstones, so that the images can be indexed again; return the number of images."""
        with self._writing() as connection:
            return take_back(connection, tombs)

    def erase_sources(self, ids: Collection[TrainingImageId]) -> int:
        """Delete key, URI, URL, title and labels of works; return the number of sources. Claims and payments stay."""
        with self._writing() as connection:
            return erase_sources(connection, ids)

    def record_purge(self, begun_at: datetime) -> None:
        """Record that every work removed until `begun_at` has been purged."""
        with self._writing() as connection:
            record_purge(connection, utc_text(begun_at), _now())

    def import_claims(self, rows: Iterable[ClaimRow | RejectedRow], partial: bool = False) -> ImportedClaims:
        """Import claims, all rows of one work together. Importing the same rows again changes nothing.

        A row replaces the claim of the same work, owner, origin and valid_from. The parts of a work by one origin have
        to sum to one whenever any is valid, or all rows of the work are rejected. partial: accept less than one.
        """
        result, valid = split_rejected(rows)
        with self._writing() as connection:
            grouped = list(group_by_work(connection, valid, result).items())
        # A transaction for each batch: a large file does not block other writers until its end, and running the same
        # import again completes one that was interrupted.
        for start in range(0, len(grouped), MAX_BATCH):
            with self._writing() as connection:
                importer = ClaimImporter(connection, self._vault, _now(), partial)
                importer.import_batch(grouped[start : start + MAX_BATCH], result)
        return result

    @contextmanager
    def rehearsed_import(
        self, rows: Iterable[ClaimRow | RejectedRow], partial: bool = False
    ) -> Iterator[tuple[ImportedClaims, CatalogueReader]]:
        """Import claims as `import_claims` does, and undo that at the end of the block.

        Yields the counts, and a reader of the catalogue as it would be, for the thread of the block. Other writers wait
        until its end.
        """
        result, valid = split_rejected(rows)
        vault = RehearsalVault(self._vault.folder)
        with self._write_lock, self._database.writer.connect() as connection, connection.begin() as undone:
            grouped = list(group_by_work(connection, valid, result).items())
            ClaimImporter(connection, vault, _now(), partial).import_batch(grouped, result)
            yield result, CatalogueReader(cast(Engine, _WithinTransaction(connection)), vault)
            undone.rollback()

    def erase_owner(self, owner_id: OwnerId) -> int:
        """Make an owner's name, contact and manifest id permanently unreadable; return the number deleted.

        Works, claims and credits keep the owner's UUID. A tombstone, the keyed hash of the manifest id, prevents that
        an import records the owner under another UUID. Raises NotFound.
        """
        with self._writing() as connection:
            if connection.execute(select(owners.c.owner_id).where(owners.c.owner_id == owner_id)).first() is None:
                raise NotFound(f"there is no owner {owner_id}")
            # First: whatever fails after this, the references cannot be decrypted any more.
            self._vault.destroy_key(owner_id)
            return delete_references(connection, owner_id, _now())

    def keep_owner_out(self, manifest_id: str, namespace: str = "") -> None:
        """Prevent the owner with this manifest id, who is not known, from being recorded by an import.

        Raises Conflict if the owner is known.
        """
        with self._writing() as connection:
            key = namespace, normal_identifier(manifest_id)
            if find_owners(connection, self._vault, [key]):
                raise Conflict("the owner with this id is known: forget the owner without --in-advance")
            keep_owner_out(connection, self._vault.lookup(*key), _now())

    def rewrite(self) -> bool:
        """Rewrite the database, so that no deleted row leaves bytes in it; see `storage.sqlite.rewrite`."""
        with self._write_lock:
            return rewrite(self._database.writer, [owner_references.name, sources.name])

    def begin_index_run(self, data_set: str, source: str) -> IndexRun:
        """Start a run for a source, or return its last run if that did not finish."""
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
        """Record the progress of a run; call it once everything before `position` is durable. Raises NotFound.

        works: the last batch that was written; ignored if empty.
        """
        values: dict[str, Any] = {"position": position, "counts": dict(counts), "updated_at": _now()}
        if works:
            values["last_works"] = sorted(str(work) for work in set(works))
        if finished:
            values["finished_at"] = _now()
        this = index_runs.c.run_id == run_id
        with self._writing() as connection:
            if connection.execute(update(index_runs).where(this).values(values)).rowcount != 1:
                raise NotFound(f"there is no index run {run_id}")
            return index_run(connection.execute(select(index_runs).where(this)).one())

    def close(self) -> None:
        """Close all connections and release the writer lock."""
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
        with self._write_lock, self._database.writer.begin() as connection:
            yield connection

    def _check_generator(self, generator: Generator) -> None:
        check_model_version(generator.model_version)
        check_data_set(generator.collection)
        if not generator.data_sets:
            raise InvalidInput(f"generator {generator.model_version} needs a data set: name those it was trained on")
        load_policy(generator.policy, self._policies)


class _WithinTransaction:
    """The part of an engine that a reader uses, over a connection whose changes are not committed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.dialect = connection.dialect

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Yield the connection, and leave its transaction open."""
        yield self._connection


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
    """Open the catalogue of a data location, or yield None if it has none."""
    try:
        catalogue = open_catalogue(place)
    except MissingData:
        yield None
        return
    with catalogue:
        yield catalogue
