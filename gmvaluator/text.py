"""Text that people write: one rule for every place that accepts, stores or prints it, and reading of text files.

Accepted is whatever people type in any script: wide and no-break spaces, joined emoji, marks of direction, characters
that are newer than this Python. Refused are control characters, half characters (surrogates), noncharacters, and the
overrides of direction, by which a text can pretend to be another one.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

from gmvaluator.errors import InvalidInput, MissingData

_LINE_BREAKS = re.compile("\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
"""What `str.splitlines` splits at. Browsers send CR LF for a line break of a text field."""

_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(
    f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000)
)
_UNWRITTEN = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202d\u202e{_NONCHARACTERS}]")
"""Characters that no text of people has, except tab and line feed, which texts of several lines may have."""

_WIDE_MARKS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_WHOLE_FLOAT = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")
"""A whole number with decimals, as pandas writes a column of integers that has a gap."""


def written_text(what: str, text: str, limit: int, *, lines: bool = False, required: bool = True) -> str:
    """Return a text from outside without surrounding spaces, its line breaks as line feeds.

    lines: whether it may have several; otherwise a line break or tab becomes a space. limit: characters. what: names
    the text in errors. Raises InvalidInput if the text is too long or holds a character that no text has, or if it is
    empty and `required`.
    """
    plain = _LINE_BREAKS.sub("\n", text).strip()
    if not lines:
        plain = re.sub("[\t\n]+", " ", plain)
    refused = _UNWRITTEN.search(plain)
    if refused is not None:
        raise InvalidInput(f"{what} is refused: remove character U+{ord(refused[0]):04X}, a control character")
    if len(plain) > limit or (required and not plain):
        least = "1 to " if required else "at most "
        raise InvalidInput(f"{what} has {len(plain):,} characters: give {least}{limit:,}")
    return plain


def printable(text: str) -> str:
    """Return `text` as one line that cannot control a terminal: controls and half characters become U+FFFD."""
    return _UNWRITTEN.sub("\N{REPLACEMENT CHARACTER}", re.sub("[\t\n]+", " ", _LINE_BREAKS.sub("\n", text)))


def normal_identifier(text: str) -> str:
    """Return the one spelling of an identifier that people or their tools write in several ways.

    The normal form is NFC (macOS writes NFD), spaces of any kind and number are one plain space, none surrounds it, and
    a whole number has no decimals: pandas writes 7 as 7.0 in a column with a gap.
    """
    plain = unicodedata.normalize("NFC", " ".join(text.strip("\ufeff\u200b\u200e\u200f").split()))
    number = _WHOLE_FLOAT.fullmatch(plain)
    return plain if number is None else number[1]


def unicode_forms(name: str) -> tuple[str, ...]:
    """Return a name as it is, composed (NFC) and decomposed (NFD), each once: macOS names files in the latter."""
    return tuple(dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))))


def other_spellings(identifier: str) -> tuple[str, ...]:
    """Return spellings of a normal identifier under which it may have been stored before it was normalised."""
    decomposed = unicodedata.normalize("NFD", identifier)
    spellings = [decomposed] if decomposed != identifier else []
    if re.fullmatch(r"-?(?:0|[1-9][0-9]*)", identifier):
        spellings.append(f"{identifier}.0")
    return tuple(spellings)


def decode_text(data: bytes, what: str) -> str:
    """Decode UTF-8 with or without a byte order mark. Raises InvalidInput, which says what to save it as."""
    check_utf8_mark(data, what)
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{what} is not UTF-8 (byte {error.start:,}): save it as UTF-8") from error


def check_utf8_mark(data: bytes, what: str) -> None:
    """Raise InvalidInput if the byte order mark in front is that of UTF-16 or UTF-32, as PowerShell's `>` writes."""
    if data.startswith(_WIDE_MARKS):
        raise InvalidInput(f"{what} is UTF-16 or UTF-32: save it as UTF-8")


def read_text(path: Path, what: str, limit_bytes: int) -> str:
    """Read a text file of at most `limit_bytes` bytes by `decode_text`. Raises MissingData, InvalidInput."""
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise MissingData(f"{what} cannot be read: {error.strerror}") from error
    if len(data) > limit_bytes:
        raise InvalidInput(f"{what} has over {limit_bytes:,} bytes")
    return decode_text(data, what)
