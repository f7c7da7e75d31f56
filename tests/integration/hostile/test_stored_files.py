"""Ledger and index files that were swapped, truncated or overwritten: refused or reported, never a crash."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gmvaluator.errors import GmvaluatorError
from gmvaluator.ledger.store import FILE_NAME, open_ledger
from gmvaluator.testing.postings import sample_posting

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two ledgers with different postings, closed."""
    made = []
    for name in ("one", "two"):
        folder = tmp_path_factory.mktemp(name)
        with open_ledger(folder, write=True) as ledger:
            ledger.post([sample_posting(number, generation=f"{name}:{number}") for number in range(40)])
        made.append(folder)
    return made[0], made[1]


def cut(part: float) -> Spoil:
    def spoil(path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * part)])

    return spoil


def scribbled(seed: int) -> Spoil:
    """Half of one page is noise."""

    def spoil(path: Path) -> None:
        data = bytearray(path.read_bytes())
        random = np.random.default_rng(seed)
        page = int(random.integers(1, len(data) // 4096)) * 4096
        data[page + 100 : page + 2_100] = random.integers(0, 256, 2_000, np.uint8).tobytes()
        path.write_bytes(data)

    return spoil


def statement(sql: str) -> Spoil:
    def spoil(path: Path) -> None:
        connection = sqlite3.connect(path)
        for trigger in [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]:
            connection.execute(f'DROP TRIGGER "{trigger}"')
        connection.execute(sql)
        connection.commit()
        connection.close()

    return spoil


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def absent(path: Path) -> None:
    path.unlink()


def another_database(path: Path) -> None:
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE x (y)")
    connection.close()


SPOILT: dict[str, Spoil] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"hello " * 1_000),
    "zeros": lambda path: path.write_bytes(bytes(100_000)),
    "header alone": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "no header": lambda path: path.write_bytes(bytes(100) + path.read_bytes()[100:]),
    "page size 0": lambda path: path.write_bytes(path.read_bytes()[:16] + b"\0\0" + path.read_bytes()[18:]),
    "a folder": a_folder,
    "absent": absent,
    "another database": another_database,
    **{f"cut to {part:.0%}": cut(part) for part in (0.9, 0.5, 0.25, 0.1, 0.02)},
    **{f"scribbled over, {seed}": scribbled(seed) for seed in range(6)},
    "a balance raised": statement("UPDATE balances SET balance_micros = balance_micros + 1"),
    "an entry raised": statement("UPDATE entries SET amount_micros = amount_micros + 1"),
    "a posting gone": statement("DELETE FROM postings WHERE sequence = 7"),
    "the head gone": statement("DELETE FROM head"),
    "the head moved back": statement("UPDATE head SET sequence = 3"),
    "evidence swapped": statement("UPDATE evidence SET body = x'00'"),
    "a table gone": statement("DROP TABLE entries"),
    "another revision": statement("UPDATE alembic_version SET version_num = '9999'"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_ledger_is_refused_or_found_by_verify(ledgers: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    path = tmp_path / FILE_NAME
    shutil.copyfile(ledgers[0] / FILE_NAME, path)
    whole = path.read_bytes()
    SPOILT[name](path)
    try:
        with open_ledger(tmp_path) as ledger:
            verification = ledger.verify()
    except GmvaluatorError:
        return
    # Noise may hit a page that nothing uses.
    unused = name.startswith("scribbled") and verification.postings == 40
    assert not verification.ok or unused or path.read_bytes() == whole


def test_a_swapped_ledger_does_not_have_the_head_that_was_handed_out(
    ledgers: tuple[Path, Path], tmp_path: Path
) -> None:
    with open_ledger(ledgers[0]) as ledger:
        head = ledger.head()
        assert ledger.verify(head).ok
    shutil.copyfile(ledgers[1] / FILE_NAME, tmp_path / FILE_NAME)
    with open_ledger(tmp_path) as ledger:
        assert not ledger.verify(head).ok


def test_the_spoilt_are_many() -> None:
    assert len(SPOILT) >= 20
