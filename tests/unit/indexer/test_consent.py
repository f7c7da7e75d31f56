"""Tests of opt-outs: images whose owners refuse training are left out, with the reason."""

import pytest

from indexer.sources.consent import opt_out_signal


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
