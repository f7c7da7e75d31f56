"""One rule for texts of people: what is accepted, how it is normalised, and what a terminal is sent."""

import unicodedata
from pathlib import Path

import pytest

from gmvaluator.catalogue.records import OwnerReference
from gmvaluator.errors import InvalidInput, MissingData
from gmvaluator.ledger.decision import checked_reason
from gmvaluator.text import normal_identifier, other_spellings, printable, read_text, written_text


@pytest.mark.parametrize(
    "text",
    [
        "これは私の\N{IDEOGRAPHIC SPACE}作品です",
        "c’est mon œuvre\N{NO-BREAK SPACE}!",
        "made by us 👩\N{ZERO WIDTH JOINER}👧 ❤\N{VARIATION SELECTOR-16}",
        "می\N{ZERO WIDTH NON-JOINER}خواهم",
        "שלום\N{RIGHT-TO-LEFT MARK}!",
        "co\N{SOFT HYPHEN}operate \uf8ff \U0001fae9",  # private use; an emoji of a later Unicode
    ],
)
def test_texts_in_any_script_are_accepted_as_they_are(text: str) -> None:
    assert checked_reason(text) == text
    assert OwnerReference("id", text).display_name == text
    assert printable(text) == text


@pytest.mark.parametrize("line_break", ["\r\n", "\n", "\r", "\u2028", "\u2029", "\x85"])
def test_line_breaks_are_line_feeds_in_a_reason_and_spaces_in_a_name(line_break: str) -> None:
    text = f"I painted this.{line_break}Sketches are attached."
    assert checked_reason(f" {text}{line_break}") == "I painted this.\nSketches are attached."
    assert OwnerReference("id", text).display_name == "I painted this. Sketches are attached."
    assert printable(text) == "I painted this. Sketches are attached."


@pytest.mark.parametrize(
    "character", ["\x00", "\x07", "\x1b", "\x7f", "\x9b", "\ud800", "\u202e", "\ufdd0", "\U0001ffff"]
)
def test_characters_that_no_text_has_are_refused_and_not_printed(character: str) -> None:
    with pytest.raises(InvalidInput, match=f"the reason is refused: remove character U\\+{ord(character):04X}"):
        checked_reason(f"a{character}b")
    with pytest.raises(InvalidInput):
        OwnerReference(f"a{character}b", "")
    assert printable(f"a{character}b") == "a\N{REPLACEMENT CHARACTER}b"


def test_a_text_has_at_most_its_limit_and_only_an_optional_one_may_be_empty() -> None:
    assert written_text("note", "é" * 5, 5) == "é" * 5
    with pytest.raises(InvalidInput, match="note has 6 characters: give 1 to 5"):
        written_text("note", "é" * 6, 5)
    with pytest.raises(InvalidInput, match="note has 0 characters"):
        written_text("note", " \r\n", 5)
    assert written_text("note", " ", 5, required=False) == ""


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (unicodedata.normalize("NFD", "zoë"), "zoë"),
        ("7.0", "7"),
        ("-7.00", "-7"),
        ("0.0", "0"),
        ("\ufeff Ada\N{NO-BREAK SPACE} Lovelace ", "Ada Lovelace"),
        ("007.0", "007.0"),
        ("7.5", "7.5"),
        ("v1.0", "v1.0"),
        ("Zoë", "Zoë"),
        ("zoë", "zoë"),
    ],
)
def test_an_identifier_has_one_spelling(text: str, normal: str) -> None:
    assert normal_identifier(text) == normal
    assert OwnerReference(text, "").manifest_id == normal


def test_spellings_of_earlier_times_are_known() -> None:
    assert other_spellings("7") == ("7.0",)
    assert other_spellings("zoë") == (unicodedata.normalize("NFD", "zoë"),)
    assert other_spellings("ada") == ()


def test_text_files_may_have_a_byte_order_mark_and_say_what_else_they_are(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    for encoding in ("utf-8", "utf-8-sig"):
        file.write_text("zoë\r\n", encoding=encoding, newline="")
        assert read_text(file, "the list", 100) == "zoë\r\n"
    file.write_text("zoë", encoding="utf-16")
    with pytest.raises(InvalidInput, match="the list is UTF-16 or UTF-32: save it as UTF-8"):
        read_text(file, "the list", 100)
    file.write_text("zoë", encoding="cp1252")
    with pytest.raises(InvalidInput, match="the list is not UTF-8"):
        read_text(file, "the list", 100)
    with pytest.raises(InvalidInput, match="over 2 bytes"):
        read_text(file, "the list", 2)
    with pytest.raises(MissingData, match="the list cannot be read: No such file"):
        read_text(tmp_path / "absent", "the list", 2)
