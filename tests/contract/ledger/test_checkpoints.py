"""Tampering with decisions and checkpoints: `verify` names each change, and the operator's key exposes forgeries."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy import text

from gmvaluator.auth.signing import Signed, Signer, checked_public_key
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.errors import InvalidInput, MissingData, PreconditionFailed
from gmvaluator.ledger.calendar import Period
from gmvaluator.ledger.checkpoints import checkpoint_of
from gmvaluator.ledger.decisions.reversal import reverse
from gmvaluator.ledger.hash_chain import GENESIS_HASH
from gmvaluator.ledger.payouts.closing import close
from gmvaluator.ledger.payouts.terms import Terms
from gmvaluator.ledger.results import Verification
from gmvaluator.ledger.schema import REVISION
from gmvaluator.ledger.store import FILE_NAME, ledger_file, open_ledger
from gmvaluator.storage.database import Database, DataLocation, location_in
from tests.support.scenes import DECEMBER, OCTOBER, SEPTEMBER, attribute, record, work
from tests.support.tampering import without_triggers

TERMS = Terms("EUR", 2, 25_000_000, None, 0)


def fill(place: DataLocation) -> None:
    """Post two generations, reverse one, and close September and October by postings 4 and 5."""
    record(place, work(1, "ada"))
    with open_ledger(place, write=True) as book, open_catalogue(place) as rights:
        original = attribute(place, "g1", [1], SEPTEMBER, book=book)
        attribute(place, "g2", [1], OCTOBER, book=book)
        reverse(book, original, "test image", OCTOBER)
        for period in (Period(2026, 9), Period(2026, 10)):
            close(book, period, TERMS, Signer(place.folder / "keys"), rights, DECEMBER, confirmed_over=True)


@pytest.fixture(scope="module")
def sound_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    fill(DataLocation(folder))
    return folder


@pytest.fixture
def verified_after(sound_folder: Path, tmp_path: Path) -> Callable[..., Verification]:
    """Return a function that copies the sound ledger, tampers with it behind its triggers, and verifies it."""

    def verify(script: str, **options: object) -> Verification:
        ledger_file(tmp_path).write_bytes(ledger_file(sound_folder).read_bytes())
        with without_triggers(ledger_file(tmp_path)) as connection:
            connection.executescript(script)
        with open_ledger(tmp_path) as book:
            return book.verify(**options)  # type: ignore[arg-type]

    return verify


def test_a_closed_ledger_passes_with_the_operators_key(
    sound_folder: Path, verified_after: Callable[..., Verification]
) -> None:
    key = Signer(sound_folder / "keys").public_key()
    assert verified_after("").ok
    assert verified_after("", public_key=key).ok
    stranger = verified_after("", public_key="0" * 64)
    assert stranger.text().startswith("posting 4: checkpoint of 2026-09 is not signed by the operator's key")


@pytest.mark.parametrize(
    ("script", "sequence", "what"),
    [
        ("DELETE FROM checkpoints WHERE period = '2026-10'", 5, "no checkpoint"),
        ("UPDATE checkpoints SET signature = '00' WHERE period = '2026-09'", 4, "not signed"),
        ("UPDATE checkpoints SET statement = x'7b7d' WHERE period = '2026-09'", 4, "not signed"),
        ("UPDATE checkpoints SET sequence = 3 WHERE period = '2026-09'", 4, "has the sequence 3: it was changed"),
        ("UPDATE checkpoints SET period = '2026-08' WHERE period = '2026-09'", 4, "no checkpoint"),
        ("INSERT INTO checkpoints SELECT '2026-08', 1, statement, signature, public_key FROM checkpoints LIMIT 1",
         1, "no closing"),
        ("UPDATE checkpoints SET statement = (SELECT statement FROM checkpoints WHERE period = '2026-10'),"
         " signature = (SELECT signature FROM checkpoints WHERE period = '2026-10') WHERE period = '2026-09'",
         4, "another posting"),
        ("DELETE FROM decisions WHERE sequence = 3", 3, "links are missing"),
        ("UPDATE decisions SET about_sequence = 2 WHERE sequence = 3", 3, "about_sequence"),
        ("UPDATE decisions SET dispute_id = 'x' WHERE sequence = 3", 3, "dispute_id"),
        ("UPDATE decisions SET period = '2026-08' WHERE sequence = 4", 4, "period"),
        ("INSERT INTO decisions VALUES (2, 'hold', NULL, NULL, NULL, NULL)", 2, "inserted"),
        ("INSERT INTO decisions VALUES (99, 'hold', NULL, NULL, NULL, NULL)", 99, "belongs to no posting"),
        ("UPDATE entries SET amount_micros = amount_micros + 1 WHERE sequence = 3 AND line = 1", 3, "changed"),
    ],
)  # fmt: skip
def test_tampering_is_found_and_named(
    verified_after: Callable[..., Verification], script: str, sequence: int, what: str
) -> None:
    report = verified_after(script)
    assert report.first is not None
    assert report.first.sequence == sequence
    assert what in report.first.what


def rewrite_history(folder: Path) -> None:
    """Rewrite the whole chain with valid hashes, as somebody can who may write the file but has no key."""
    with open_ledger(folder) as book:
        stored = list(book.every_posting())
    before = GENESIS_HASH
    with without_triggers(ledger_file(folder)) as connection:
        for posting in stored:
            header = replace(posting.header, previous_hash=before, posted_at="2020-01-01T00:00:00.000000Z")
            before = header.chain_hash()
            connection.execute(
                "UPDATE postings SET previous_hash = ?, hash = ?, posted_at = ? WHERE sequence = ?",
                (header.previous_hash, before, header.posted_at, posting.sequence),
            )
        connection.execute("UPDATE head SET hash = ?", (before,))


def test_a_rewritten_history_needs_the_operators_key(sound_folder: Path, tmp_path: Path) -> None:
    ledger_file(tmp_path).write_bytes(ledger_file(sound_folder).read_bytes())
    with open_ledger(tmp_path) as book, book.snapshot() as connection:
        row = connection.execute(text("SELECT * FROM checkpoints WHERE period = '2026-10'")).one()
    kept = Signed(row.statement, row.signature, row.public_key)
    rewrite_history(tmp_path)
    with open_ledger(tmp_path) as book:
        report = book.verify()
        assert report.first is not None
        assert "history was rewritten" in report.first.what
    forge(tmp_path)
    key = Signer(sound_folder / "keys").public_key()
    with open_ledger(tmp_path) as book:
        assert book.verify().ok
        assert "operator's key" in book.verify(public_key=key).text()
        assert "history was rewritten" in book.verify(kept=[kept]).text()


def forge(folder: Path) -> None:
    """Sign the rewritten history with another key."""
    with without_triggers(ledger_file(folder)) as connection, open_ledger(folder) as book:
        for posting in book.every_posting():
            if posting.header.kind == "close":
                period = posting.header.generation_id.removeprefix("close/")
                signed = checkpoint_of(posting, period, Signer(folder / "forged"))
                connection.execute(
                    "UPDATE checkpoints SET statement = ?, signature = ?, public_key = ? WHERE period = ?",
                    (signed.statement, signed.signature, signed.public_key, period),
                )


def test_the_database_refuses_to_change_decisions_and_checkpoints(place: DataLocation) -> None:
    fill(place)
    database = Database(location_in(place, FILE_NAME), REVISION, write=True)
    for table in ("decisions", "checkpoints"):
        for change in (f"UPDATE {table} SET period = '2020-01'", f"DELETE FROM {table}"):
            with pytest.raises(Exception, match="append-only"), database.writer.begin() as connection:
                connection.execute(text(change))
    database.close()
    with open_ledger(place) as book:
        assert book.verify(public_key=Signer(place.folder / "keys").public_key()).ok


def test_a_close_that_is_not_signed_is_not_posted(place: DataLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise PreconditionFailed("the key cannot be read")

    with monkeypatch.context() as patched:
        patched.setattr(Signer, "sign", refuse)
        with pytest.raises(PreconditionFailed, match="key"):
            fill(place)
    with open_ledger(place, write=True) as book, open_catalogue(place) as rights:
        assert book.head().sequence == 3
        close(book, Period(2026, 9), TERMS, Signer(place.folder / "keys"), rights, DECEMBER, confirmed_over=True)
        assert book.verify().ok


def test_a_closing_without_its_checkpoint_is_signed_the_next_time(sound_folder: Path, tmp_path: Path) -> None:
    place = DataLocation(tmp_path)
    ledger_file(tmp_path).write_bytes(ledger_file(sound_folder).read_bytes())
    with without_triggers(ledger_file(tmp_path)) as connection:
        connection.execute("DELETE FROM checkpoints WHERE period = '2026-10'")
    with open_ledger(place, write=True) as book:
        assert "no checkpoint" in book.verify().text()
        close(book, Period(2026, 10), TERMS, Signer(sound_folder / "keys"), None, DECEMBER)
        assert book.verify().ok


def test_signed_statements_from_outside_are_checked(tmp_path: Path) -> None:
    signer = Signer(tmp_path)
    with pytest.raises(MissingData):
        signer.public_key()
    signed = signer.sign(b'{"a":1}')
    assert Signed.from_dict(json.loads(json.dumps(signed.as_dict()))) == signed
    assert signed.genuine(signer.public_key())
    assert not replace(signed, statement=b'{"a":2}').genuine()
    assert not replace(signed, public_key="zz").genuine()
    assert (tmp_path / "signing.key").stat().st_mode & 0o077 == 0
    for wrong in (
        None,
        {},
        {"statement": 1},
        {**signed.as_dict(), "statement": "x"},
        {**signed.as_dict(), "statement": "1"},
    ):
        with pytest.raises(InvalidInput):
            Signed.from_dict(wrong)
    with pytest.raises(InvalidInput):
        checked_public_key("abc")
