"""Two decisions at the same moment end as if they were made one after the other, whatever they are."""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from gmvaluator.ledger.decision import NewDecision
from gmvaluator.ledger.payouts.audit import verify_with_payments
from gmvaluator.ledger.records import StoredPosting
from gmvaluator.ledger.store import Ledger, ledger_file, open_ledger
from gmvaluator.ledger.transaction import LedgerTransaction
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postgresql import PostgresServer
from tests.support.finance import DECISIONS, fill, fill_and_close, outcome_of
from tests.support.scenes import balances

WAIT_S = 60.0

FIRST_CLOSINGS = [("close September", "close August"), ("close August", "close October"),
                  ("close October", "close October")]  # fmt: skip

PAIRS = [
    ("close October", "pay September"),
    ("pay September", "close October"),
    ("pay September", "pay September"),
    ("open", "close October"),
    ("close October", "open"),
    ("open", "pay September"),
    ("pay September", "open"),
    ("reject", "close October"),
    ("award", "reject"),
    ("award", "hold"),
    ("open", "award"),
    ("release", "release"),
    ("release", "close October"),
    ("reverse", "pay September"),
    ("pay September", "reverse"),
    ("reverse", "open"),
    ("open", "reverse"),
    ("reverse", "reverse"),
    ("reattribute", "open"),
    ("reattribute", "close October"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a ledger of which no month is closed, and one whose September is closed."""
    made = {name: tmp_path_factory.mktemp(name) for name in ("open", "closed")}
    with open_ledger(made["open"], write=True) as book:
        fill(book)
    with open_ledger(made["closed"], write=True) as book:
        fill_and_close(book, made["closed"] / "keys")
    return made


@pytest.fixture(scope="module")
def databases(postgres_server: PostgresServer, folders: dict[str, Path]) -> dict[str, str]:
    """The same ledgers on PostgreSQL."""
    made = {name: postgres_server.new_database() for name in folders}
    with open_ledger(DataLocation(folders["open"], made["open"]), write=True, new=True) as book:
        fill(book)
    with open_ledger(DataLocation(folders["closed"], made["closed"]), write=True, new=True) as book:
        fill_and_close(book, folders["closed"] / "keys")
    return made


@pytest.fixture(scope="module")
def expected() -> dict[object, object]:
    """What comes of two decisions one after the other, by scene and names; it is the same on both databases."""
    return {}


Books = Callable[[str], tuple[Ledger, Ledger]]


@pytest.fixture(params=["sqlite", "postgresql"])
def two_books(request: pytest.FixtureRequest, tmp_path: Path, folders: dict[str, Path]) -> Iterator[Books]:
    """Return a function that copies a ledger and opens the copy for two people; on SQLite they share the process."""
    with ExitStack() as stack:

        def on_sqlite(name: str) -> tuple[Ledger, Ledger]:
            book = stack.enter_context(open_ledger(copied(folders[name], tmp_path), write=True))
            return book, book

        def on_postgresql(name: str) -> tuple[Ledger, Ledger]:
            server: PostgresServer = request.getfixturevalue("postgres_server")
            url = server.new_database(like=request.getfixturevalue("databases")[name])
            stack.callback(server.drop_database, url)
            place = DataLocation(tmp_path, url)
            first = stack.enter_context(open_ledger(place, write=True))
            return first, stack.enter_context(open_ledger(place, write=True))

        yield on_sqlite if request.param == "sqlite" else on_postgresql


def copied(folder: Path, to: Path) -> Path:
    shutil.copy(ledger_file(folder), ledger_file(to))
    return to


def one_after_the_other(folder: Path, keys: Path, names: Sequence[str]) -> tuple[list[object], dict[str, int]]:
    with open_ledger(folder, write=True) as book:
        return [outcome_of(DECISIONS[name], book, keys) for name in names], balances(book)


def at_once(monkeypatch: pytest.MonkeyPatch, first: Callable[[], object], second: Callable[[], object]) -> list[object]:
    """Run two decisions: the first waits with what it has read until the second comes to its own transaction."""
    has_read, arrived = threading.Event(), threading.Event()
    outcomes: list[object] = [None, None]
    post, decide = LedgerTransaction.post, Ledger.decide

    def run_first() -> None:
        outcomes[0] = first()
        has_read.set()

    def run_second() -> None:
        outcomes[1] = second()
        arrived.set()

    threads = [threading.Thread(target=run_first), threading.Thread(target=run_second)]

    def waiting_post(transaction: LedgerTransaction, new: Sequence[NewDecision]) -> list[StoredPosting]:
        if threading.current_thread() is threads[0]:
            has_read.set()
            assert arrived.wait(WAIT_S)
        return post(transaction, new)

    def announcing_decide(book: Ledger, decision: Callable[[LedgerTransaction], object]) -> object:
        if threading.current_thread() is threads[1]:
            arrived.set()
        return decide(book, decision)

    monkeypatch.setattr(LedgerTransaction, "post", waiting_post)
    monkeypatch.setattr(Ledger, "decide", announcing_decide)
    threads[0].start()
    assert has_read.wait(WAIT_S)
    threads[1].start()
    for thread in threads:
        thread.join(WAIT_S)
    return outcomes


@pytest.mark.parametrize(
    ("scene", "names"),
    [*(("closed", pair) for pair in PAIRS), *(("open", pair) for pair in FIRST_CLOSINGS)],
    ids=[" beside ".join(pair) for pair in [*PAIRS, *FIRST_CLOSINGS]],
)
def test_two_decisions_end_as_one_after_the_other(
    two_books: Books,
    folders: dict[str, Path],
    expected: dict[object, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scene: str,
    names: tuple[str, str],
) -> None:
    keys = folders["closed"] / "keys"
    if (scene, names) not in expected:
        (tmp_path / "apart").mkdir()
        expected[scene, names] = one_after_the_other(copied(folders[scene], tmp_path / "apart"), keys, names)
    acts = [
        partial(outcome_of, DECISIONS[name], book, keys) for name, book in zip(names, two_books(scene), strict=True)
    ]
    outcomes = at_once(monkeypatch, *acts)
    book: Ledger = acts[0].args[1]
    assert (outcomes, balances(book)) == expected[scene, names]
    assert verify_with_payments(book).text().startswith(f"{book.head().sequence} postings")
    assert book.totals().reconciles
