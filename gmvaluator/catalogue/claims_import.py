"""Import of claims: parsing a CSV file, and recording its rows work by work.

Each row is checked once, when it is parsed; a row that cannot be used is reported and stops nothing. The rows of one
work are imported together, or all rejected if its parts do not add up.
"""

from __future__ import annotations

import csv
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from gmvaluator.catalogue.claims import WHOLE_PPM, split_error
from gmvaluator.catalogue.records import OwnerReference, check_data_set
from gmvaluator.catalogue.schema import claims, former_claims, sources, works
from gmvaluator.catalogue.vault import Vault
from gmvaluator.catalogue.writer import BatchRecorder, OwnerKey
from gmvaluator.errors import GmvaluatorError, InvalidManifest
from gmvaluator.ids import OwnerId, TrainingImageId
from gmvaluator.storage.schema import BEGINNING, END, utc_text
from gmvaluator.text import unicode_forms, written_text

MAX_ROWS = 1_000_000
"""Limit of rows in a file."""

MAX_FIELD_CHARACTERS = 10_000
MAX_ORIGIN_CHARACTERS = 200

REQUIRED = ("owner_id", "share_ppm")
OPTIONAL = ("sha256", "data_set", "key", "owner_name", "owner_contact", "valid_from", "valid_to", "origin")
"""Columns of the file. It needs `sha256`, or `data_set` and `key`, besides the required ones."""


@dataclass(frozen=True, slots=True)
class WorkName:
    """A work in the file: identified by the SHA-256 of its bytes, or by its key in a data set."""

    sha256: str = ""
    data_set: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A valid row. share_ppm: 0 withdraws the claim. valid_from (inclusive), valid_to (exclusive): UTC text."""

    line: int
    work: WorkName
    owner: OwnerReference
    contact: str
    share_ppm: int
    valid_from: str
    valid_to: str
    origin: str


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that was not imported, and the reason."""

    line: int
    reason: str


def read_claims(file: Path, default_origin: str) -> Iterator[ClaimRow | RejectedRow]:
    """Yield the rows of a file, in order. Raises InvalidManifest if it is not such a CSV file, or too long."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened, strict=True)
            _check_columns(reader.fieldnames or [], file)
            for count, row in enumerate(reader, start=1):
                if count > MAX_ROWS:
                    raise InvalidManifest(f"{file} has over {MAX_ROWS:,} rows: split it")
                yield _claim(row, reader.line_num, default_origin)
    except OSError as error:
        raise InvalidManifest(f"{file} cannot be read ({error.strerror}): name a CSV file of rights") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidManifest(f"{file} is not a UTF-8 CSV file: {error}") from error


def checked_origin(text: str) -> str:
    """Return a valid origin of claims: one line of 1-200 characters. Raises InvalidInput."""
    return written_text("origin", text, MAX_ORIGIN_CHARACTERS)


def _check_columns(names: Sequence[str], file: Path) -> None:
    unknown = [name for name in names if name not in REQUIRED + OPTIONAL]
    missing = [name for name in REQUIRED if name not in names]
    if "sha256" not in names and not {"data_set", "key"} <= set(names):
        missing.append("sha256 (or data_set and key)")
    if unknown or missing or len(set(names)) != len(names):
        raise InvalidManifest(
            f"{file} has columns {', '.join(names) or '(none)'}; "
            + (f"it lacks {', '.join(missing)}; " if missing else "")
            + (f"unknown: {', '.join(unknown)}; " if unknown else "")
            + f"known are {', '.join(REQUIRED + OPTIONAL)}, each once"
        )


def _claim(row: Mapping[str | None, str | None], line: int, default_origin: str) -> ClaimRow | RejectedRow:
    try:
        fields = _fields(row)
        valid_from = _instant(fields.get("valid_from", ""), BEGINNING, "valid_from")
        valid_to = _instant(fields.get("valid_to", ""), END, "valid_to")
        if valid_from >= valid_to:
            raise InvalidManifest("valid_from is not before valid_to")
        return ClaimRow(
            line,
            _work(fields),
            OwnerReference(fields.get("owner_id", ""), fields.get("owner_name", "")),
            # A postal address has lines.
            written_text(
                "owner_contact", fields.get("owner_contact", ""), MAX_FIELD_CHARACTERS, lines=True, required=False
            ),
            _share(fields["share_ppm"]),
            valid_from,
            valid_to,
            checked_origin(fields.get("origin") or default_origin),
        )
    except GmvaluatorError as error:
        return RejectedRow(line, str(error))


def _fields(row: Mapping[str | None, str | None]) -> dict[str, str]:
    if None in row or None in row.values():
        raise InvalidManifest("the row has more or fewer cells than there are columns")
    fields = {name: (value or "").strip() for name, value in row.items() if name is not None}
    for name, value in fields.items():
        if len(value) > MAX_FIELD_CHARACTERS:
            raise InvalidManifest(f"{name} has over {MAX_FIELD_CHARACTERS:,} characters")
    return fields


def _work(fields: Mapping[str, str]) -> WorkName:
    sha256 = fields.get("sha256", "").lower()
    data_set, key = fields.get("data_set", ""), fields.get("key", "")
    if sha256:
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise InvalidManifest(f"sha256 {sha256[:70]!r} is not 64 hex digits")
        return WorkName(sha256=sha256)
    if not data_set or not key:
        raise InvalidManifest("the row names no work: give its sha256, or its data_set and key")
    return WorkName(data_set=check_data_set(data_set), key=key)


def _share(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,7}", text) or int(text) > WHOLE_PPM:
        raise InvalidManifest(f"share_ppm {text[:20]!r} is not a whole number from 0 to {WHOLE_PPM:,}")
    return int(text)


def _instant(text: str, default: str, name: str) -> str:
    """Parse a day, which means its first instant in UTC, or an instant with a time zone; empty means `default`."""
    if not text:
        return default
    try:
        moment = datetime.fromisoformat(text)
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            moment = moment.replace(tzinfo=UTC)
        return utc_text(moment)
    except (ValueError, OverflowError):
        raise InvalidManifest(
            f"{name} {text[:40]!r} is no time: write 2026-11-01 or 2026-11-01T12:00:00+00:00"
        ) from None


_WORKS_PER_QUERY = 400

_CLAIM_COLUMNS = (
    "training_image_id",
    "owner_id",
    "share_ppm",
    "valid_from",
    "valid_to",
    "origin",
    "recorded_at",
)

_Key = tuple[uuid.UUID, str, str]
"""owner_id, origin and valid_from, which identify a claim to a work."""


@dataclass(slots=True)
class ImportedClaims:
    """Counts of an import: rows = added + changed + unchanged + withdrawn + rejected. works: those with a change."""

    rows: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    withdrawn: int = 0
    works: set[TrainingImageId] = field(default_factory=set)
    rejected: list[RejectedRow] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, the rejected rows ordered by line."""
        counts = {name: getattr(self, name) for name in ("rows", "added", "changed", "unchanged", "withdrawn")}
        by_line = sorted(self.rejected, key=lambda row: row.line)
        rejects = [{"line": row.line, "reason": row.reason} for row in by_line]
        return {**counts, "rejected": len(rejects), "works": len(self.works), "rejects": rejects}


class ClaimImporter:
    """An importer of rows within the transaction of a connection; the caller commits."""

    def __init__(self, connection: Connection, vault: Vault, recorded_at: str, partial: bool) -> None:
        self._connection = connection
        self._recorder = BatchRecorder(connection, vault, recorded_at)
        self._at = recorded_at
        self._partial = partial
        self._known: dict[OwnerKey, OwnerId] = {}
        self._erased: set[OwnerKey] = set()
        self._recorded: set[OwnerReference] = set()
        self._new: list[dict[str, Any]] = []

    def import_batch(
        self, grouped: Sequence[tuple[TrainingImageId, Sequence[ClaimRow]]], result: ImportedClaims
    ) -> None:
        """Import the rows of each work, or reject all of them; count them in `result`."""
        for start in range(0, len(grouped), _WORKS_PER_QUERY):
            batch = grouped[start : start + _WORKS_PER_QUERY]
            keys = {_owner_key(row) for _, rows in batch for row in rows} - self._known.keys()
            self._known |= self._recorder.known_owners(keys)
            self._erased |= self._recorder.erased(keys)
            stored = self._claims_on([work for work, _ in batch])
            for work, rows in batch:
                self._import_work(work, rows, stored.get(work, {}), result)
            if self._new:
                self._connection.execute(insert(claims), self._new)
                self._new.clear()

    def _import_work(
        self, work: TrainingImageId, rows: Sequence[ClaimRow], stored: dict[_Key, Row[Any]], result: ImportedClaims
    ) -> None:
        result.rows += len(rows)
        reason = self._rejection_reason(rows, stored, self._known)
        if reason is not None:
            result.rejected += [RejectedRow(row.line, reason) for row in rows]
            return
        self._record_owners([row.owner for row in rows if row.owner not in self._recorded])
        for row in rows:
            owner_id = self._known[_owner_key(row)]
            if row.contact:
                self._recorder.set_contact(owner_id, row.contact)
            self._apply(work, row, owner_id, stored.get((owner_id, row.origin, row.valid_from)), result)

    def _record_owners(self, owners: Sequence[OwnerReference]) -> None:
        """Create owners that are new, and update the names of the others."""
        if owners:
            self._known |= self._recorder.owners(owners)
            self._recorded.update(owners)

    def _claims_on(self, ids: Sequence[TrainingImageId]) -> dict[uuid.UUID, dict[_Key, Row[Any]]]:
        claims_by_work: dict[uuid.UUID, dict[_Key, Row[Any]]] = {}
        for row in self._connection.execute(select(claims).where(claims.c.training_image_id.in_(ids))):
            claims_by_work.setdefault(row.training_image_id, {})[_key(row)] = row
        return claims_by_work

    def _rejection_reason(
        self, rows: Sequence[ClaimRow], stored: dict[_Key, Row[Any]], known: dict[OwnerKey, OwnerId]
    ) -> str | None:
        """Return why the rows of a work are rejected, or None if they can be imported."""
        after = {
            (owner, origin, begin): (begin, row.valid_to, row.share_ppm)
            for (owner, origin, begin), row in stored.items()
        }
        line_of: dict[_Key, int] = {}
        # Placeholders: rejected rows must not create their owners.
        new_owners: dict[OwnerKey, uuid.UUID] = {}
        for row in rows:
            if _owner_key(row) in self._erased:
                return f"line {row.line} names an owner who was erased, and who is not recorded again"
            owner = known.get(_owner_key(row)) or new_owners.setdefault(_owner_key(row), uuid.uuid4())
            key = owner, row.origin, row.valid_from
            if key in line_of:
                return f"line {row.line} names the same claim as line {line_of[key]}"
            line_of[key] = row.line
            if row.share_ppm:
                after[key] = row.valid_from, row.valid_to, row.share_ppm
            elif after.pop(key, None) is None:
                return f"line {row.line} withdraws a claim that is not there"
        for origin in sorted({row.origin for row in rows}):
            error = split_error([split for (_, other, _), split in after.items() if other == origin], self._partial)
            if error is not None:
                return f"by origin {origin}, {error}"
        return None

    def _apply(
        self,
        work: TrainingImageId,
        row: ClaimRow,
        owner_id: OwnerId,
        before: Row[Any] | None,
        result: ImportedClaims,
    ) -> None:
        values = {"share_ppm": row.share_ppm, "valid_to": row.valid_to, "recorded_at": self._at}
        if before is None:
            key = {"training_image_id": work, "owner_id": owner_id, "origin": row.origin, "valid_from": row.valid_from}
            self._new.append({**key, **values})
            result.added += 1
        elif (before.share_ppm, before.valid_to) == (row.share_ppm, row.valid_to):
            result.unchanged += 1
            return
        else:
            self._keep_former(before)
            this = claims.c.claim_id == before.claim_id
            if row.share_ppm:
                self._connection.execute(update(claims).where(this).values(values))
                result.changed += 1
            else:
                self._connection.execute(delete(claims).where(this))
                result.withdrawn += 1
        result.works.add(work)

    def _keep_former(self, before: Row[Any]) -> None:
        values = {name: getattr(before, name) for name in _CLAIM_COLUMNS}
        self._connection.execute(insert(former_claims), {**values, "replaced_at": self._at})


def split_rejected(rows: Iterable[ClaimRow | RejectedRow]) -> tuple[ImportedClaims, list[ClaimRow]]:
    """Return the rows that can be imported, and the counts of an import that has rejected the others."""
    result, valid = ImportedClaims(), list[ClaimRow]()
    for row in rows:
        if isinstance(row, ClaimRow):
            valid.append(row)
        else:
            result.rows += 1
            result.rejected.append(row)
    return result, valid


def group_by_work(
    connection: Connection, rows: Iterable[ClaimRow], result: ImportedClaims
) -> dict[TrainingImageId, list[ClaimRow]]:
    """Group rows by their work; reject those that match no work or several."""
    rows_by_name: dict[WorkName, list[ClaimRow]] = {}
    for row in rows:
        rows_by_name.setdefault(row.work, []).append(row)
    grouped: dict[TrainingImageId, list[ClaimRow]] = {}
    for name, ids in _resolve_names(connection, list(rows_by_name)):
        if len(ids) == 1:
            grouped.setdefault(ids.pop(), []).extend(rows_by_name[name])
        else:
            reason = f"{len(ids)} works have this key: name it by sha256" if ids else "no such work is in the catalogue"
            result.rows += len(rows_by_name[name])
            result.rejected += [RejectedRow(row.line, reason) for row in rows_by_name[name]]
    return grouped


def _resolve_names(
    connection: Connection, names: Sequence[WorkName]
) -> Iterator[tuple[WorkName, set[TrainingImageId]]]:
    for start in range(0, len(names), _WORKS_PER_QUERY):
        batch = names[start : start + _WORKS_PER_QUERY]
        matches: dict[WorkName, set[TrainingImageId]] = {name: set() for name in batch}
        hashes = [name.sha256 for name in batch if name.sha256]
        by_hash = select(works.c.sha256, works.c.training_image_id).where(works.c.sha256.in_(hashes))
        for row in connection.execute(by_hash):
            matches[WorkName(sha256=row.sha256)].add(row.training_image_id)
        for data_set in sorted({name.data_set for name in batch if name.key}):
            for name, ids in _with_keys(
                connection, data_set, [name.key for name in batch if name.data_set == data_set]
            ):
                matches[WorkName(data_set=data_set, key=name)] = ids
        yield from matches.items()


def _with_keys(
    connection: Connection, data_set: str, keys: Sequence[str]
) -> Iterator[tuple[str, set[TrainingImageId]]]:
    """Yield each key with its works; those with the key in another Unicode normal form count if none is exactly so."""
    forms = {form for key in keys for form in unicode_forms(key)}
    query = select(sources.c.key, sources.c.training_image_id).where(sources.c.data_set == data_set)
    stored: dict[str, set[TrainingImageId]] = {}
    for row in connection.execute(query.where(sources.c.key.in_(forms))):
        stored.setdefault(row.key, set()).add(row.training_image_id)
    for key in keys:
        others = set[TrainingImageId]().union(*(stored.get(form, ()) for form in unicode_forms(key)))
        yield key, stored.get(key, others)


def _key(row: Row[Any]) -> _Key:
    return row.owner_id, row.origin, row.valid_from


def _owner_key(row: ClaimRow) -> OwnerKey:
    return row.owner.namespace, row.owner.manifest_id
