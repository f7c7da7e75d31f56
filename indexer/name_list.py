"""Lists that name images, one entry per line: for `index add --opt-out`, `index remove --from` and `index restore`.

An entry is a SHA-256, alone or as `sha256sum`, `shasum` and `openssl` print it, or else a key, a URL or a URI. A line
that begins with `# ` is a comment, and `#1.png` is a name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from gmvaluator.errors import InvalidInput, MissingData
from gmvaluator.files import atomic_file
from gmvaluator.text import unicode_forms

MAX_LINE = 10_000
"""Maximum length of one line, in characters."""

MAX_LINES = 10_000_000
"""Maximum number of lines of a list."""

SHOWN = 100
"""Entries that a report shows; a file has all of them."""

_LABEL = r"sha-?256"
_HASH = re.compile(rf"\\?(?:{_LABEL}\s*[:=]\s*)?([0-9a-f]{{64}})(?:[\s,;\"'].*)?", re.IGNORECASE)
_TAGGED_HASH = re.compile(rf"\\?{_LABEL}\s?\(.*\)\s?=\s?([0-9a-f]{{64}})", re.IGNORECASE)
_LABELLED = re.compile(rf"\\?{_LABEL}\s*(?:[:=]|\(.*\)\s?=)", re.IGNORECASE)
_COMMENT = re.compile(r"#(?:$|[\s#!=-])")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. text: without spaces around it. sha256: lower-case, or "". names: spellings of the name, if it is one.

    is_comment: whether the line may name nothing without being reported.
    """

    line: int
    text: str
    sha256: str = ""
    names: tuple[str, ...] = ()
    is_comment: bool = False


@dataclass(frozen=True, slots=True)
class Unmatched:
    """Entries of a list that named nothing. first: up to `SHOWN` of them, with their lines. file: lists all of them."""

    entries: int
    first: tuple[str, ...]
    file: Path

    def as_dict(self) -> dict[str, object]:
        """Return plain data."""
        return {"entries": self.entries, "first": list(self.first), "file": str(self.file)}


def read_list(file: Path) -> list[str]:
    """Return the lines of a list. Raises MissingData, InvalidInput."""
    try:
        # With or without a byte order mark, which some editors write; CRLF and CR end lines, too.
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise MissingData(f"the list {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the list {file} is not UTF-8: save it as UTF-8 ({error})") from error
    if len(lines) > MAX_LINES:
        raise InvalidInput(f"the list {file} has over {MAX_LINES:,} lines: split it")
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE or "\0" in line:
            raise InvalidInput(
                f"line {number} of the list {file} has a NUL or over {MAX_LINE:,} characters: give one name per line"
            )
    return lines


def parse_list(lines: Iterable[str], file: object) -> Iterator[Entry]:
    """Yield the entries of a list's lines. Raises InvalidInput, naming the line, for a malformed SHA-256."""
    for number, line in enumerate(lines, start=1):
        text = line.strip().removeprefix("\ufeff")
        if text:
            yield _entry(number, text, file)


def write_unmatched(file: Path, entries: Iterable[Entry]) -> Unmatched | None:
    """Write entries that named nothing to a file, with their line numbers; remove the file if there are none."""
    first: list[str] = []
    count = 0
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as opened:
        for entry in entries:
            count += 1
            text = f"line {entry.line}: {entry.text}"
            if len(first) < SHOWN:
                first.append(text)
            opened.write(f"{text}\n".encode())
    if not count:
        file.unlink(missing_ok=True)
        return None
    return Unmatched(count, tuple(first), file)


def spellings(name: str) -> tuple[str, ...]:
    """Return the spellings under which a name is compared: as it is, in NFC, and a URL with its host in lower case."""
    return tuple(dict.fromkeys((name, _normal(name))))


def _entry(number: int, text: str, file: object) -> Entry:
    bare = _unquoted(text)
    match = _HASH.fullmatch(bare) or _TAGGED_HASH.fullmatch(bare)
    if match is not None:
        return Entry(number, text, match[1].lower())
    if _LABELLED.match(bare):
        raise InvalidInput(f"line {number} of the list {file} is no SHA-256, {text[:80]!r}: give 64 hexadecimal digits")
    paths = [name for base in (text, bare) for name in _paths(base)]
    # The catalogue compares what it has stored, which is decomposed if it comes from a Mac.
    names = dict.fromkeys(written for name in paths for written in (*spellings(name), *unicode_forms(name)))
    return Entry(number, text, names=tuple(names), is_comment=_COMMENT.match(text) is not None)


def _paths(name: str) -> Iterator[str]:
    """Yield a name and, if programs may write it otherwise, that: ./a.png, a\\b.png or an absolute path."""
    yield name
    if "://" not in name:
        slashed = name.replace("\\", "/")
        yield slashed.removeprefix("./")
        if slashed.startswith("/"):
            yield PurePosixPath(slashed).as_uri()


def _unquoted(text: str) -> str:
    quote = text[0]
    if len(text) > 2 and quote in "\"'" and text[-1] == quote:
        return text[1:-1].replace(quote * 2, quote)
    return text


def _normal(name: str) -> str:
    text = unicodedata.normalize("NFC", name)
    if "://" not in text:
        return text
    try:
        parts = urlsplit(text)
    except ValueError:
        return text
    start = f"{parts.scheme}://{parts.netloc}"
    return start.lower() + text[len(start) :] if text[: len(start)].lower() == start.lower() else text
