"""Reading the catalogue: rights for the attributor, generators for the operator, progress for the indexer."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, Engine, PoolProxiedConnection, Row, and_, func, select

from gmvaluator.accounts import HELD
from gmvaluator.catalogue.claims import Claim, Right, resolve_claims
from gmvaluator.catalogue.records import IndexRun
from gmvaluator.catalogue.removal import (
    Removal,
    Selected,
    Selection,
    active_works,
    find_removed_keys,
    select_removals,
    unpurged,
)
from gmvaluator.catalogue.schema import (
    claims,
    data_sets,
    generators,
    index_runs,
    owner_references,
    owners,
    sources,
    tombstones,
    works,
)
from gmvaluator.catalogue.vault import Vault
from gmvaluator.catalogue.writer import NAME
from gmvaluator.errors import InvalidInput, NotFound, UnknownGenerator
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.ports import Beneficiary, Generator, WorkCard
from gmvaluator.storage.schema import utc_text

MAX_IDS = 10_000
"""Ids in one question at most."""

ERASED_NAME = "(forgotten)"
"""Shown instead of the name of an owner whose key was destroyed."""

OWNER_UNKNOWN = "(owner unknown)"
CLAIMS_COMPETE = "(held: claims compete)"

_MAX_CACHED_NAMES = 100_000
_FOR_EVER = "~"
"""After every UTC text."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows of the catalogue's main tables."""

    works: int
    sources: int
    owners: int
    claims: int
    data_sets: int
    generators: int


class DatedCard(NamedTuple):
    """A card, right from `valid_from` until just before `valid_to`, both UTC texts."""

    card: WorkCard
    valid_from: str
    valid_to: str


class _DatedClaim(NamedTuple):
    claim: Claim
    number: int
    valid_from: str
    valid_to: str


ChangeMark = tuple[int, int]
"""Says only whether it is equal to another one."""


class CatalogueReader:
    """Answers questions about works and rights; safe from any thread. Implements `ports.RightsReader`."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self._engine = engine
        self._vault = vault
        self._names: dict[bytes, str] = {}
        self._marking = threading.Lock()
        self._marker: PoolProxiedConnection | None = None

    def generator(self, model_version: str) -> Generator:
        """The operator's entry for a generator. Raises UnknownGenerator, listing those known."""
        with self._engine.connect() as connection:
            row = connection.execute(
                select(generators).where(generators.c.model_version == model_version)
            ).one_or_none()
        if row is not None:
            return _generator(row)
        known = ", ".join(one.model_version for one in self.generators()[:20]) or "none"
        raise UnknownGenerator(
            f"no generator {model_version[:200]!r} is registered (known: {known}); the operator adds it by "
            f"`gmvaluator generators add MODEL_VERSION --data-set NAME`"
        )

    def generators(self) -> list[Generator]:
        """All generators, by model version."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(generators).order_by(generators.c.model_version)).all()
        return [_generator(row) for row in rows]

    def works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, WorkCard]:
        """Cards of `ids` (10,000 at most) with the rights valid at `at`; see `ports.RightsReader.works`."""
        return {one: dated.card for one, dated in self.dated_works(ids, at).items()}

    def dated_works(self, ids: Sequence[TrainingImageId], at: datetime) -> dict[TrainingImageId, DatedCard]:
        """As `works`, with the time in which each card is right."""
        _check_count(ids)
        with self._engine.connect() as connection:
            shown = {row.training_image_id: row for row in _first_sources(connection, ids)}
            claimed, names = self._claims(connection, ids)
        moment, cards = utc_text(at), {}
        for one in ids:
            key, title = (shown[one].key, shown[one].title) if one in shown else ("", "")
            mine = claimed.get(one, ())
            valid = [claim for claim in mine if claim.valid_from <= moment < claim.valid_to]
            rights = resolve_claims(claim.claim for claim in valid)
            earliest = min((claim.number for claim in valid), default=None)
            card = WorkCard(one, key, title, tuple(_beneficiary(right, names) for right in rights), earliest)
            cards[one] = DatedCard(card, *_around(moment, mine))
        return cards

    def change_mark(self) -> ChangeMark | None:
        """Another value once anything in the catalogue may have changed since; None where that cannot be told cheaply.

        Safe from any thread, and quick enough for every request.
        """
        if self._engine.dialect.name != "sqlite":
            return None
        with self._marking:
            if self._marker is None:
                self._marker = self._engine.raw_connection()
            (version,) = self._marker.cursor().execute("PRAGMA data_version").fetchone()
        return version, self._vault.change_mark()

    def stop_marking(self) -> None:
        """Let go of what `change_mark` holds."""
        with self._marking:
            if self._marker is not None:
                self._marker.close()
                self._marker = None

    def display_names(self, owner_ids: Collection[OwnerId]) -> dict[OwnerId, str]:
        """Names of owners, ERASED_NAME where there is none any more."""
        _check_count(owner_ids)
        query = select(owner_references.c.owner_id, owner_references.c.ciphertext)
        query = query.where(owner_references.c.kind == NAME, owner_references.c.owner_id.in_(owner_ids))
        with self._engine.connect() as connection:
            found = {row.owner_id: row.ciphertext for row in connection.execute(query)}
        return {owner_id: self._name(owner_id, found.get(owner_id)) for owner_id in owner_ids}

    def owner_of_manifest_id(self, manifest_id: str, namespace: str = "") -> OwnerId:
        """The owner that manifests name so. Raises NotFound."""
        lookup = self._vault.lookup(namespace, manifest_id)
        with self._engine.connect() as connection:
            query = select(owner_references.c.owner_id).where(owner_references.c.lookup == lookup)
            found = connection.execute(query).scalar()
        if found is None:
            raise NotFound("no owner is known by this id: give the UUID, or the manifest's owner_id as it was imported")
        return OwnerId(found)

    def snapshot(self) -> AbstractContextManager[Connection]:
        """A read-only connection for questions that other modules ask."""
        return self._engine.connect()

    def known(self, sha256s: Collection[str]) -> set[str]:
        """Those of `sha256s` (10,000 at most) whose images are in the catalogue."""
        _check_count(sha256s)
        with self._engine.connect() as connection:
            return set(connection.execute(select(works.c.sha256).where(works.c.sha256.in_(sha256s))).scalars())

    def tombstoned(self, sha256s: Collection[str]) -> set[str]:
        """Those of `sha256s` (10,000 at most) that were removed or opted out and must stay out."""
        _check_count(sha256s)
        query = select(tombstones.c.sha256).where(tombstones.c.sha256.in_(sha256s))
        with self._engine.connect() as connection:
            return set(connection.execute(query).scalars())

    def removed_keys(self, data_set: str, keys: Collection[str]) -> set[str]:
        """Those of `keys` (10,000 at most) under which a work of this data set was removed."""
        _check_count(keys)
        with self._engine.connect() as connection:
            return find_removed_keys(connection, self._vault, data_set, keys)

    def removals(self, selection: Selection) -> Selected:
        """The works that a selection means."""
        with self._engine.connect() as connection:
            return select_removals(connection, self._vault, selection)

    def active_works(self, data_set: str, sha256s: Collection[str], names: Collection[str]) -> set[str]:
        """SHA-256 of works that were not removed: of those given, and of those with such a key or URI in a data set."""
        with self._engine.connect() as connection:
            return active_works(connection, data_set, sha256s, names)

    def unpurged(self) -> list[Removal]:
        """Works that were removed since the last purge, without their places."""
        with self._engine.connect() as connection:
            return unpurged(connection)

    def first_seen(self, ids: Collection[TrainingImageId]) -> dict[TrainingImageId, int]:
        """Place of the first source of each of `ids` (10,000 at most) among all that were recorded."""
        _check_count(ids)
        query = select(sources.c.training_image_id, func.min(sources.c.source_id))
        query = query.where(sources.c.training_image_id.in_(ids)).group_by(sources.c.training_image_id)
        with self._engine.connect() as connection:
            return {TrainingImageId(row[0]): row[1] for row in connection.execute(query)}

    def data_sets(self) -> list[str]:
        """Names of all data sets, ascending."""
        with self._engine.connect() as connection:
            return list(connection.execute(select(data_sets.c.name).order_by(data_sets.c.name)).scalars())

    def counts(self) -> Counts:
        """How many of each there are."""
        tables = (works, sources, owners, claims, data_sets, generators)
        with self._engine.connect() as connection:
            return Counts(
                *(connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables)
            )

    def latest_works(self, data_set: str, source: str) -> list[TrainingImageId]:
        """Works of the batch noted last by the runs whose source begins with `source`, without those removed since."""
        noted = (
            select(index_runs.c.last_works)
            .where(index_runs.c.data_set == data_set, index_runs.c.source.startswith(source, autoescape=True))
            .where(index_runs.c.last_works.is_not(None))
            .order_by(index_runs.c.updated_at.desc(), index_runs.c.run_id.desc())
            .limit(1)
        )
        with self._engine.connect() as connection:
            ids = [UUID(one) for one in connection.execute(noted).scalar_one_or_none() or ()]
            query = select(works.c.training_image_id).where(works.c.training_image_id.in_(ids))
            found = connection.execute(query.where(works.c.sha256.not_in(select(tombstones.c.sha256))))
            return [TrainingImageId(one) for one in found.scalars()]

    def sizes_and_licences(self, ids: Sequence[TrainingImageId]) -> dict[TrainingImageId, tuple[int, int, str]]:
        """Width, height and the first source's licence of those of `ids` (10,000 at most) that are known."""
        _check_count(ids)
        with self._engine.connect() as connection:
            licences = {row.training_image_id: row.license for row in _first_sources(connection, ids)}
            query = select(works.c.training_image_id, works.c.width, works.c.height)
            found = connection.execute(query.where(works.c.training_image_id.in_(ids)))
            return {row[0]: (row[1], row[2], licences.get(row[0], "")) for row in found}

    def last_index_run(self, data_set: str, source: str) -> IndexRun | None:
        """Newest run of a source into a data set; None if it was never indexed."""
        query = select(index_runs).where(index_runs.c.data_set == data_set, index_runs.c.source == source)
        with self._engine.connect() as connection:
            row = connection.execute(query.order_by(index_runs.c.run_id.desc()).limit(1)).one_or_none()
        return None if row is None else index_run(row)

    def _claims(
        self, connection: Connection, ids: Sequence[TrainingImageId]
    ) -> tuple[dict[TrainingImageId, list[_DatedClaim]], dict[OwnerId, str]]:
        """All claims by work, whenever they are valid, and the names of the owners they mention."""
        of_name = and_(owner_references.c.owner_id == claims.c.owner_id, owner_references.c.kind == NAME)
        query = (
            select(claims, owner_references.c.ciphertext)
            .select_from(claims.outerjoin(owner_references, of_name))
            .where(claims.c.training_image_id.in_(ids))
        )
        claimed: dict[TrainingImageId, list[_DatedClaim]] = {}
        names: dict[OwnerId, str] = {}
        for row in connection.execute(query):
            claim = Claim(row.origin, OwnerId(row.owner_id), row.share_ppm)
            claimed.setdefault(row.training_image_id, []).append(
                _DatedClaim(claim, row.claim_id, row.valid_from, row.valid_to)
            )
            if claim.owner_id not in names:
                names[claim.owner_id] = self._name(claim.owner_id, row.ciphertext)
        return claimed, names

    def _name(self, owner_id: OwnerId, ciphertext: bytes | None) -> str:
        # The key is looked for each time: an owner forgotten by another process is forgotten here at once.
        if ciphertext is None or not self._vault.has_key(owner_id):
            return ERASED_NAME
        name = self._names.get(ciphertext)
        if name is None:
            if len(self._names) >= _MAX_CACHED_NAMES:
                self._names.clear()
            name = self._names[ciphertext] = self._vault.decrypt(owner_id, NAME, ciphertext)
        return name


def index_run(row: Row[tuple[object, ...]]) -> IndexRun:
    """A row of `index_runs`."""
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


def _around(moment: str, dated: Sequence[_DatedClaim]) -> tuple[str, str]:
    """The time around `moment` in which no claim begins or ends."""
    edges = [edge for claim in dated for edge in (claim.valid_from, claim.valid_to)]
    return (
        max((edge for edge in edges if edge <= moment), default=""),
        min((edge for edge in edges if edge > moment), default=_FOR_EVER),
    )


def _beneficiary(right: Right, names: dict[OwnerId, str]) -> Beneficiary:
    if right.owner_id is not None:
        name = names[right.owner_id]
    else:
        name = CLAIMS_COMPETE if right.account == HELD else OWNER_UNKNOWN
    return Beneficiary(right.account, right.owner_id, name, right.share_ppm)


def _check_count(asked: Collection[object]) -> None:
    if len(asked) > MAX_IDS:
        raise InvalidInput(f"{len(asked)} ids are too many for one question: ask for {MAX_IDS} at most")
