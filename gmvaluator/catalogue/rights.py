"""Rights as the catalogue stores them: who is paid for a work, under which name, and by which generators.

This is what the attributor reads for each image, with a mark by which a cache of it stays true.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Engine, PoolProxiedConnection, Row, and_, func, select

from gmvaluator.accounts import HELD
from gmvaluator.catalogue.claims import Claim, Right, resolve_claims
from gmvaluator.catalogue.schema import claims, former_claims, generators, owner_references, sources
from gmvaluator.catalogue.vault import Vault
from gmvaluator.catalogue.writer import NAME
from gmvaluator.errors import InvalidInput, UnknownGenerator
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.ports import Beneficiary, Generator, WorkCard
from gmvaluator.storage.schema import utc_text

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


class CatalogueRights:
    """Read access to the rights in a catalogue. Thread-safe. Implements `ports.RightsReader`."""

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
        check_count(ids)
        with self._engine.connect() as connection:
            by_work = {row.training_image_id: row for row in first_sources(connection, ids)}
            claims_by_work, names = self._claims(connection, ids)
        moment, cards = utc_text(at), {}
        for work in ids:
            source = by_work.get(work)
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
        check_count(owner_ids)
        query = select(owner_references.c.owner_id, owner_references.c.ciphertext)
        query = query.where(owner_references.c.kind == NAME, owner_references.c.owner_id.in_(owner_ids))
        with self._engine.connect() as connection:
            ciphertexts = {row.owner_id: row.ciphertext for row in connection.execute(query)}
        return {owner_id: self._name(owner_id, ciphertexts.get(owner_id)) for owner_id in owner_ids}

    def claimed_works(self, owner_id: OwnerId, ids: Collection[TrainingImageId]) -> set[TrainingImageId]:
        """Return those of `ids` (10,000 at most) that the owner claims or claimed, whatever others claim."""
        check_count(ids)
        known_ids: set[TrainingImageId] = set()
        with self._engine.connect() as connection:
            for table in (claims, former_claims):
                query = select(table.c.training_image_id).where(table.c.owner_id == owner_id)
                known_ids.update(connection.execute(query.where(table.c.training_image_id.in_(ids))).scalars())
        return known_ids

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


def _generator(row: Row[tuple[object, ...]]) -> Generator:
    value = row._mapping
    return Generator(value["model_version"], value["collection"], tuple(value["data_sets"]), value["policy"])


def first_sources(connection: Connection, ids: Sequence[TrainingImageId]) -> Iterable[Row[tuple[object, ...]]]:
    """Return the row of each work's first source: training_image_id, key, title and license."""
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


def check_count(ids: Collection[object]) -> None:
    """Raise InvalidInput if a query names more than MAX_IDS."""
    if len(ids) > MAX_IDS:
        raise InvalidInput(f"{len(ids)} ids are too many for one query: give {MAX_IDS} at most")
