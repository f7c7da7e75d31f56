"""Identifiers: stable, and safe to show and to store."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmvaluator.errors import InvalidInput
from gmvaluator.ids import generation_id, sha256_hex, training_image_id


def test_the_id_of_some_bytes_never_changes() -> None:
    assert training_image_id(sha256_hex(b"gmvaluator")) == uuid.UUID("04883c2c-2e84-5ab9-b963-2d0068729711")


@pytest.mark.parametrize("text", ["", "A" * 64, "0" * 63, "g" * 64, "../" + "0" * 61])
def test_what_is_no_sha256_has_no_id(text: str) -> None:
    with pytest.raises(InvalidInput):
        training_image_id(text)


@pytest.mark.parametrize("text", ["a", "job-17/img:3", "sha256:abc=", "A" * 200])
def test_plain_generation_ids_pass(text: str) -> None:
    assert generation_id(text) == text


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "../x", "/x", "a\0", "a\n", "\u202egnp", "<b>", "A" * 201, "é", "a\u0301", "-x", "x" * 10_000],
)
def test_evil_generation_ids_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="generation_id"):
        generation_id(text)


@given(st.text(alphabet=st.characters(blacklist_categories=["L", "N"]), max_size=300))
def test_no_text_without_letters_and_digits_is_an_id(text: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        generation_id(text)
    assert len(str(refusal.value)) < 400
