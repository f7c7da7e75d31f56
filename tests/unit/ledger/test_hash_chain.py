"""The hash chain's formats, pinned because every stored hash depends on them."""

from dataclasses import replace
from typing import Any

from gmvaluator.ledger.hash_chain import GENESIS_HASH, canonical_json, digest, entries_digest
from gmvaluator.ledger.records import Entry, PostingHeader
from gmvaluator.testing.postings import sample_posting, sample_work

HEADER = PostingHeader(
    sequence=1,
    kind="attribution",
    generator_identity="local",
    generation_id="one",
    image_sha256="ab" * 32,
    model_version="demo-1",
    policy="paper@1",
    profile_hash="cd" * 32,
    generated_at="2026-01-31T12:00:00.000000Z",
    posted_at="2026-01-31T12:00:01.000000Z",
    issued_micros=750_000,
    entries_digest="00" * 32,
    evidence_digest="11" * 32,
    previous_hash=GENESIS_HASH,
)


def test_canonical_json_has_sorted_keys_no_spaces_and_plain_letters() -> None:
    assert canonical_json({"b": 1, "a": ["ü", None, 0.1]}) == '{"a":["ü",null,0.1],"b":1}'.encode()


def test_hashes_of_stored_ledgers_stay_valid() -> None:
    assert HEADER.chain_hash() == "3ba3a7865c6a726f2c1d00db3e048ace9795cb7e7eb3d3d49dd1b25f316c3d3e"
    entries = [Entry("issuance", None, -7), Entry("unattributed", sample_work(1), 7)]
    assert entries_digest(entries) == "09465a14f97cca8946995b26808722dc197faf8be6f04f1d091e1e16fedb18b9"
    assert digest([]) == entries_digest([])


def test_every_field_of_the_header_is_covered() -> None:
    for name, value in HEADER.as_dict().items():
        changed: dict[str, Any] = {name: value + 1 if isinstance(value, int) else value[:-1] + "x"}
        assert replace(HEADER, **changed).chain_hash() != HEADER.chain_hash(), name


def test_fields_that_are_null_are_not_part_of_the_hash() -> None:
    bare = replace(HEADER, image_sha256=None)
    assert bare.chain_hash() == digest(
        {"format": 1, **{name: value for name, value in HEADER.as_dict().items() if name != "image_sha256"}}
    )


def test_entries_differ_by_order_account_work_and_amount() -> None:
    entries = list(sample_posting(3).entries)
    first, second, *rest = entries
    variants = [
        [second, first, *rest],
        [first._replace(account="held"), second, *rest],
        [first._replace(training_image_id=sample_work(9)), second, *rest],
        [first._replace(amount_micros=first.amount_micros + 1), second, *rest],
        [second, *rest],
    ]
    assert len({entries_digest(variant) for variant in [entries, *variants]}) == len(variants) + 1
