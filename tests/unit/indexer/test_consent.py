"""Owners who refuse training stay out, and the refusal is named."""

from pathlib import Path

import pytest

from gmvaluator.errors import InvalidInput, MissingData
from indexer.sources.consent import OptOutList, opt_out_signal


@pytest.mark.parametrize(
    "row",
    [
        {"noai": "true"},
        {"NoImageAI": "1"},
        {"noml": "yes"},
        {"tdm-reservation": "1"},
        {"tdm_reservation": "1.0"},
        {"robots": "index, noai"},
        {"X-Robots-Tag": "otherbot: noindex, noimageai"},
    ],
)
def test_signals_are_seen_under_any_spelling(row: dict[str, str]) -> None:
    assert opt_out_signal({"title": "a frog", **row})


@pytest.mark.parametrize(
    "row", [{}, {"noai": ""}, {"noai": "False"}, {"tdm_reservation": "0"}, {"robots": "noaim"}, {"title": "noai"}]
)
def test_what_is_no_signal_is_taken_in(row: dict[str, str]) -> None:
    assert opt_out_signal(row) == ""


def test_a_list_names_hashes_keys_and_urls(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"# comment\n\n{'AB' * 32}\nhttps://x/a.png\nkey 7\n")
    found = OptOutList.read(path)
    assert found.has_sha256("ab" * 32)
    assert found.names_one_of("other", "https://x/a.png") == "https://x/a.png"
    assert found.names_one_of("key 8", "") == ""


def test_the_first_entry_of_a_list_saved_with_a_byte_order_mark_counts(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{'ab' * 32}\n", encoding="utf-8-sig")
    assert OptOutList.read(path).has_sha256("ab" * 32)


def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingData):
        OptOutList.read(tmp_path / "nowhere")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput):
        OptOutList.read(tmp_path / "binary")
