"""A CSV file of rights: each row is checked once, here; a row that cannot be used is listed and stops nothing."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gmvaluator.catalogue.records import OwnerReference, check_data_set
from gmvaluator.catalogue.rights import WHOLE_PPM
from gmvaluator.errors import GmvaluatorError, InvalidManifest
from gmvaluator.storage.schema import BEGINNING, END, utc_text

MAX_ROWS = 1_000_000
MAX_FIELD_CHARACTERS = 10_000
MAX_ORIGIN_CHARACTERS = 200

REQUIRED = ("owner_id", "share_ppm")
OPTIONAL = ("sha256", "data_set", "key", "owner_name", "owner_contact", "valid_from", "valid_to", "origin")


@dataclass(frozen=True, slots=True)
class WorkName:
    """A work as the file names it: by the SHA-256 of its bytes, or by its key in a data set."""

    sha256: str = ""
    data_set: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """One row. share_ppm 0 withdraws the claim. valid_from (inclusive), valid_to (exclusive): `utc_text`."""

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
    """A row that was not used, and why."""

    line: int
    reason: str


def read_claims(file: Path, default_origin: str) -> Iterator[ClaimRow | RejectedRow]:
    """The rows of a file, in order. Raises InvalidManifest if it is no CSV of this form or is too long."""
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
    """Who says so: 1-200 printable characters. Raises InvalidManifest."""
    if not 1 <= len(text) <= MAX_ORIGIN_CHARACTERS or not text.isprintable():
        raise InvalidManifest(f"origin {text[:40]!r} is refused: give 1-{MAX_ORIGIN_CHARACTERS} printable characters")
    return text


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
            OwnerReference(_text(fields, "owner_id"), _text(fields, "owner_name")),
            _text(fields, "owner_contact"),
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


def _text(fields: Mapping[str, str], name: str) -> str:
    text = fields.get(name, "")
    if not text.isprintable():
        raise InvalidManifest(f"{name} holds characters that cannot be printed")
    return text


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


def _instant(text: str, otherwise: str, name: str) -> str:
    """A day, meaning its first instant in UTC, or an instant with a time zone; empty means `otherwise`."""
    if not text:
        return otherwise
    try:
        moment = datetime.fromisoformat(text)
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            moment = moment.replace(tzinfo=UTC)
        return utc_text(moment)
    except (ValueError, OverflowError):
        raise InvalidManifest(
            f"{name} {text[:40]!r} is no time: write 2026-11-01 or 2026-11-01T12:00:00+00:00"
        ) from None
