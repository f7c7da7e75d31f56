"""Backups taken while a writer posts and restored, and exports to Parquet."""

import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from gmvaluator.errors import Conflict, Failure, MissingData, PreconditionFailed
from gmvaluator.ledger.parquet_export import export
from gmvaluator.ledger.results import Posted, Replayed
from gmvaluator.ledger.store import ledger_file, open_ledger
from gmvaluator.ledger.verification import check_backup, replay
from gmvaluator.storage.database import DataLocation
from gmvaluator.storage.sqlite import back_up
from gmvaluator.testing.postings import sample_posting
from tests.support.scenes import OCTOBER, attribute, record, work


def test_a_backup_taken_while_posting_is_restored_whole(tmp_path: Path) -> None:
    """Back up under load, lose the ledger, restore it, and post again what came after: nothing is doubled."""
    data, stop, under_load = tmp_path / "data", threading.Event(), threading.Event()
    posted: list[int] = []

    def post() -> None:
        with open_ledger(data, write=True) as ledger:
            for number in range(400):
                if stop.is_set():
                    return
                ledger.post([sample_posting(number, contributors=20)])
                posted.append(number)
                if len(posted) == 20:
                    under_load.set()

    writer = threading.Thread(target=post)
    writer.start()
    try:
        assert under_load.wait(60)
        heads = []
        for number in range(3):
            known = len(posted)
            back_up(ledger_file(data), tmp_path / f"backup-{number}.sqlite")
            heads.append(check_backup(tmp_path / f"backup-{number}.sqlite"))
            assert heads[-1].sequence >= known
    finally:
        stop.set()
        writer.join()
    for path in data.glob("ledger.sqlite*"):
        path.unlink()
    ledger_file(data).write_bytes((tmp_path / "backup-1.sqlite").read_bytes())
    with open_ledger(data, write=True) as restored:
        assert restored.head() == heads[1]
        assert restored.verify(heads[1]).ok
        assert all(replay(posting).equal for posting in restored.every_posting())
        outcomes = restored.post([sample_posting(number, contributors=20) for number in posted])
        assert sum(isinstance(outcome, Replayed) for outcome in outcomes) == heads[1].sequence
        assert sum(isinstance(outcome, Posted) for outcome in outcomes) == len(posted) - heads[1].sequence
        assert restored.verify().ok
        assert restored.totals().reconciles
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_backup_never_overwrites_and_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(MissingData):
        back_up(tmp_path / "none.sqlite", tmp_path / "copy.sqlite")
    (tmp_path / "broken.sqlite").write_bytes(b"no database" * 1_000)
    with pytest.raises(Failure, match="cannot be backed up"):
        back_up(tmp_path / "broken.sqlite", tmp_path / "copy.sqlite")
    (tmp_path / "copy.sqlite").write_bytes(b"keep me")
    with pytest.raises(Conflict):
        back_up(tmp_path / "broken.sqlite", tmp_path / "copy.sqlite")
    with pytest.raises(PreconditionFailed):
        back_up(tmp_path / "broken.sqlite", tmp_path / "copy.sqlite" / "below.sqlite")
    assert (tmp_path / "copy.sqlite").read_bytes() == b"keep me"


def test_an_export_holds_every_row(place: DataLocation, tmp_path: Path) -> None:
    record(place, work(1, "ada"))
    attribute(place, "g1", [1], OCTOBER)
    with open_ledger(place, write=True) as ledger:
        ledger.post([sample_posting(number, contributors=9) for number in range(30)])
        report = export(ledger, tmp_path / "out", batch_rows=40)
        stored = list(ledger.every_posting())
        head = ledger.head()
        with pytest.raises(Conflict, match="not empty"):
            export(ledger, tmp_path / "out")
    tables = {path.stem: pq.read_table(path).to_pylist() for path in (tmp_path / "out").iterdir()}
    assert {name: len(rows) for name, rows in tables.items()} == report["rows"]
    assert report["head"] == {"sequence": head.sequence, "hash": head.hash}
    assert [row["hash"] for row in tables["postings"]] == [posting.hash for posting in stored]
    lines = [(row["sequence"], row["account"], row["amount_micros"]) for row in tables["entries"]]
    assert lines == [
        (posting.sequence, entry.account, entry.amount_micros) for posting in stored for entry in posting.entries
    ]
    assert [row["json"].encode() for row in tables["evidence"]] == [posting.evidence_json for posting in stored]
    assert sum(row["balance_micros"] for row in tables["balances"]) == 0
