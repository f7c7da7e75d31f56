"""Read access to the catalogue: rights for the attributor, generators for the operator, progress for the indexer."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Engine, PoolProxiedConnection, Row, and_, func, select

from gmvaluator.accounts import HELD
from gmvaluator.catalogue.claims import Claim, Right, resolve_claims
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
from gmvaluator.catalogue.schema import (
    claims,
    data_sets,
    former_claims,
    generators,
    index_runs,
    owner_references,
    owners,
    sources,
    tombstones,
    works,
)
from gmvaluator.catalogue.tombstones import Record, Removal, Restorable, removed_among, restorable, tombstoned, unpurged
from gmvaluator.catalogue.vault import Vault
from gmvaluator.catalogue.writer import NAME, erased_among, find_owners
from gmvaluator.errors import InvalidInput, NotFound, PreconditionFailed, UnknownGenerator
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.ports import Beneficiary, Generator, WorkCard
from gmvaluator.storage.schema import utc_text
from gmvaluator.text import normal_identifier

MAX_IDS = 10_000
"""Limit of ids in one query."""

ERASED_NAME = "(forgotten)"
"""Display name of an owner that was erased."""

OWNER_UNKNOWN = "(owner unknown)"
"""Display name of the suspense account."""

CLAIMS_COMPETE = "(held: claims compete)"
"""Display name of the held account."""

_MAX_CACHED_NAMES = 100_000
_FOREVER = "~"
"""Text that sorts after every UTC text."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of rows of the catalogue's main tables."""

    works: int
    sources: int
    owners: int
    claims: int
    data_sets: int
    generators: int


class DatedCard(NamedTuple):
    """A card, and the interval in which it is valid: from `valid_from` until just before `valid_to`, UTC texts."""

    card: WorkCard
    valid_from: str
    valid_to: str


class _DatedClaim(NamedTuple):
    claim: Claim
    number: int
    valid_from: str
    valid_to: str


ChangeMark = tuple[int, int]
"""A version of the catalogue, opaque: two marks can only be compared for equality."""


class CatalogueReader:
    """Read access to a catalogue. Thread-safe. Implements `ports.RightsReader`."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self._engine = engine
        self._vault = vault
        self._names: dict[bytes, str] = {}
        self._marking = threading.Lock()
        self._marker: PoolProxiedConnection | None = None

    def generator(self, model_version: str) -> Generator:
        """Return a registered generator. Raises UnknownGenerator, listing those registered."""
        with self._engine.connect() as connection:
            row = connection.execute(
                select(generators).where(generators.c.model_version == model_version)
            ).one_or_none()
        if row is not None:
            return _generator(row)
        known = ", ".join(generator.model_version for generator in self.generators()[:20]) or "none"
        raise UnknownGenerator(
            f"no generator {model_version[:200]!r} is registered (known: {known}); the operator adds it by "
            f"`gmvaluator generators add MODEL_VERSION --data-set NAME`"
        )

    def generators(self) -> list[Generator]:
        """Return all generators, by model version."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(generators).order_by(generators.c.model_version)).all()
        return [_generator(row) for row in rows]

    def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:
        """Return cards of `ids` (10,000 at most) with the rights valid at `at`; see `ports.RightsReader.works`."""
        return {work: dated.card for work, dated in self.dated_works(ids, at).items()}

    def dated_works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, DatedCard]:
        """Return cards as `works` does, each with the interval in which it is valid."""
        _check_count(ids)
        with self._engine.connect() as connection:
            first_sources = {row.training_image_id: row for row in _first_sources(connection, ids)}
            claims_by_work, names = self._claims(connection, ids)
        moment, cards = utc_text(at), {}
        for work in ids:
            source = first_sources.get(work)
            key, title = ("", "") if source is None else (source.key, source.title)
            dated_claims = claims_by_work.get(work, ())
            valid = [claim for claim in dated_claims if claim.valid_from <= moment < claim.valid_to]
            rights = resolve_claims(claim.claim for claim in valid)
            earliest = min((claim.number for claim in valid), default=None)
            card = WorkCard(work, key, title, tuple(_beneficiary(right, names) for right in rights), earliest)
            cards[work] = DatedCard(card, *_constant_interval(moment, dated_claims))
        return cards

    def change_mark(self) -> ChangeMark | None:
        """Return a mark that changes with the catalogue; None on PostgreSQL, which has no cheap one.

        Cheap enough to be called for every request.
        """
        if self._engine.dialect.name != "sqlite":
            return None
        # `data_version` is comparable on one connection only, so that one is kept.
        with self._marking:
            if self._marker is None:
                self._marker = self._engine.raw_connection()
            (version,) = self._marker.cursor().execute("PRAGMA data_version").fetchone()
        # Erasing an owner changes the key folder before it changes the database.
        return version, self._vault.change_mark()

    def stop_marking(self) -> None:
        """Close the connection that `change_mark` keeps."""
        with self._marking:
            if self._marker is not None:
                self._marker.close()
                self._marker = None

    def display_names(self, owner_ids: Collection[OwnerId]) -> dict[OwnerId, str]:
        """Return the names of owners (10,000 at most), ERASED_NAME for those erased or unknown."""
        _check_count(owner_ids)
        query = select(owner_references.c.owner_id, owner_references.c.ciphertext)
        query = query.where(owner_references.c.kind == NAME, owner_references.c.owner_id.in_(owner_ids))
        with self._engine.connect() as connection:
            ciphertexts = {row.owner_id: row.ciphertext for row in connection.execute(query)}
        return {owner_id: self._name(owner_id, ciphertexts.get(owner_id)) for owner_id in owner_ids}

    def claimed_works(self, owner_id: OwnerId, ids: Collection[TrainingImageId]) -> set[TrainingImageId]:
        """Return those of `ids` (10,000 at most) that the owner claims or claimed, whatever others claim."""
        _check_count(ids)
        known_ids: set[TrainingImageId] = set()
        with self._engine.connect() as connection:
            for table in (claims, former_claims):
                query = select(table.c.training_image_id).where(table.c.owner_id == owner_id)
                known_ids.update(connection.execute(query.where(table.c.training_image_id.in_(ids))).scalars())
        return known_ids

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
        _check_count(owners)
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
        _check_count(sha256s)
        with self._engine.connect() as connection:
            return set(connection.execute(select(works.c.sha256).where(works.c.sha256.in_(sha256s))).scalars())

    def tombstoned(self, sha256s: Collection[str]) -> set[str]:
        """Return those of `sha256s` (10,000 at most) that have a tombstone and must stay out."""
        _check_count(sha256s)
        query = select(tombstones.c.sha256).where(tombstones.c.sha256.in_(sha256s))
        with self._engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def removed_among(self, records: Collection[Record]) -> set[Record]:
        """Return those of `records` (10,000 at most) that a removal named, and that stay out whatever they hold."""
        _check_count(records)
        with self._engine.connect() as connection:
            return removed_among(connection, self._vault, records)

    def removals(self, selection: Selection) -> Selected:
        """Return the works that a selection matches."""
        with self._engine.connect() as connection:
            return select_removals(connection, self._vault, selection)

    def restorable(self, selection: Selection) -> Restorable:
        """Return the tombstones that a selection matches."""
        names = selection.keys | selection.names
        with self._engine.connect() as connection:
            return restorable(connection, self._vault, selection.sha256s, names, selection.owners, selection.data_set)

    def opted_out_works(self, data_set: str, opted_out: OptedOut) -> OptedOutWorks:
        """Return indexed works whose owners opted out. data_set: where keys are looked up."""
        with self._engine.connect() as connection:
            return opted_out_works(connection, data_set, opted_out)

    def known_names(self, data_set: str, names: Collection[str]) -> set[str]:
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
        _check_count(ids)
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
        _check_count(ids)
        with self._engine.connect() as connection:
            licences = {row.training_image_id: row.license for row in _first_sources(connection, ids)}
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

    def _claims(
        self, connection: Connection, ids: Sequence[TrainingImageId]
    ) -> tuple[dict[TrainingImageId, list[_DatedClaim]], dict[OwnerId, str]]:
        """Return all claims by work, whenever they are valid, and the names of their owners."""
        # An outer join: an erased owner still has its claims, and no name.
        of_name = and_(owner_references.c.owner_id == claims.c.owner_id, owner_references.c.kind == NAME)
        query = (
            select(claims, owner_references.c.ciphertext)
            .select_from(claims.outerjoin(owner_references, of_name))
            .where(claims.c.training_image_id.in_(ids))
        )
        by_work: dict[TrainingImageId, list[_DatedClaim]] = {}
        names: dict[OwnerId, str] = {}
        for row in connection.execute(query):
            claim = Claim(row.origin, OwnerId(row.owner_id), row.share_ppm)
            by_work.setdefault(row.training_image_id, []).append(
                _DatedClaim(claim, row.claim_id, row.valid_from, row.valid_to)
            )
            if claim.owner_id not in names:
                names[claim.owner_id] = self._name(claim.owner_id, row.ciphertext)
        return by_work, names

    def _name(self, owner_id: OwnerId, ciphertext: bytes | None) -> str:
        # Looked up each time, cached name or not: an owner that another process erased is erased here at once.
        if ciphertext is None or not self._vault.has_key(owner_id):
            return ERASED_NAME
        name = self._names.get(ciphertext)
        if name is None:
            if len(self._names) >= _MAX_CACHED_NAMES:
                self._names.clear()
            name = self._names[ciphertext] = self._vault.decrypt(owner_id, NAME, ciphertext)
        return name


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


def _generator(row: Row[tuple[object, ...]]) -> Generator:
    value = row._mapping
    return Generator(value["model_version"], value["collection"], tuple(value["data_sets"]), value["policy"])


def _first_sources(connection: Connection, ids: Sequence[TrainingImageId]) -> Iterable[Row[tuple[object, ...]]]:
    first = (
        select(func.min(sources.c.source_id))
        .where(sources.c.training_image_id.in_(ids))
        .group_by(sources.c.training_image_id)
    )
    query = select(sources.c.training_image_id, sources.c.key, sources.c.title, sources.c.license)
    return connection.execute(query.where(sources.c.source_id.in_(first)))


def _constant_interval(moment: str, dated: Sequence[_DatedClaim]) -> tuple[str, str]:
    """Return the interval around `moment` in which no claim begins or ends."""
    edges = [edge for claim in dated for edge in (claim.valid_from, claim.valid_to)]
    return (
        max((edge for edge in edges if edge <= moment), default=""),
        min((edge for edge in edges if edge > moment), default=_FOREVER),
    )


def _beneficiary(right: Right, names: dict[OwnerId, str]) -> Beneficiary:
    if right.owner_id is not None:
        name = names[right.owner_id]
    else:
        name = CLAIMS_COMPETE if right.account == HELD else OWNER_UNKNOWN
    return Beneficiary(right.account, right.owner_id, name, right.share_ppm)


def _check_count(ids: Collection[object]) -> None:
    if len(ids) > MAX_IDS:
        raise InvalidInput(f"{len(ids)} ids are too many for one question: ask for {MAX_IDS} at most")
