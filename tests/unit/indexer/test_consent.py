"""Tests of opt-outs: images whose owners refuse training are left out, with the reason."""

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
def test_signals_are_recognised_in_any_spelling(row: dict[str, str]) -> None:
    assert opt_out_signal({"title": "a frog", **row})


@pytest.mark.parametrize(
    "row", [{}, {"noai": ""}, {"noai": "False"}, {"tdm_reservation": "0"}, {"robots": "noaim"}, {"title": "noai"}]
)
def test_other_values_are_no_signal(row: dict[str, str]) -> None:
    assert opt_out_signal(row) == ""


def test_a_list_names_hashes_keys_and_urls(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"# comment\n\n{'AB' * 32}\nhttps://x/a.png\nkey 7\n")
    opt_outs = OptOutList.read(path)
    assert opt_outs.has_sha256("ab" * 32)
    assert opt_outs.names_one_of("other", "https://x/a.png") == "https://x/a.png"
    assert opt_outs.names_one_of("key 8", "") == ""


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
