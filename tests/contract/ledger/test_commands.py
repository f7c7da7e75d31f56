"""Commands `gmvaluator ledger` and `gmvaluator generators`: JSON on stdout, exit codes and text for people."""

import json
import sqlite3
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from click.testing import CliRunner, Result

from gmvaluator.catalogue.records import NewWork, OwnerReference
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.commands.generators import generators
from gmvaluator.commands.ledger import ledger
from gmvaluator.errors import Failure, InvalidInput, MissingData, NotFound
from gmvaluator.ids import sha256_hex
from gmvaluator.ledger.allocation import ScoredCandidate
from gmvaluator.ledger.posting import ValuedImage, build_posting
from gmvaluator.ledger.records import ImageFacts
from gmvaluator.ledger.store import ledger_file, open_ledger
from gmvaluator.ledger.verification import LastVerification, read_verification
from gmvaluator.testing.postings import SAMPLE_PROFILE, SAMPLE_TIME, sample_posting, sample_work
from gmvaluator.valuation.policy import load_policy

NAMES = ["[red]Ada[/red]", "Ben [/]"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four works by two owners, one without an owner, and one generation that all five contributed to."""
    works = [
        NewWork(
            sample_work(number), sha256_hex(str(number).encode()), 8, 8, "paintings", f"work-{number}", "",
            owner=None if number == 4 else OwnerReference(str(number % 2), NAMES[number % 2]),
        )
        for number in range(5)
    ]  # fmt: skip
    valued = ValuedImage(
        "local", sample_posting(1).generation_id, SAMPLE_TIME, ImageFacts("ab" * 32, 64, 48, 1_000), "demo-1", "works",
        SAMPLE_PROFILE, 1_000_000, {},
    )  # fmt: skip
    candidates = [ScoredCandidate(sample_work(number), 0, 900_000) for number in range(5)]
    with open_catalogue(tmp_path, write=True) as catalogue:
        catalogue.record(works)
        cards = catalogue.works([candidate.training_image_id for candidate in candidates], SAMPLE_TIME)
    with open_ledger(tmp_path, write=True) as book:
        book.post([build_posting(valued, load_policy("paper@1"), candidates, cards)])
    return tmp_path


def run(command: Any, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def as_json(command: Any, *arguments: str) -> dict[str, Any]:
    result = run(command, *arguments, "--json")
    assert result.exit_code == 0
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def test_totals_reconcile_and_name_the_owners(data: Path) -> None:
    totals = as_json(ledger, "totals", "--data", str(data))
    owners = totals.pop("owners")
    assert {owner["display_name"]: (owner["credit_micros"], owner["works"]) for owner in owners} == {
        NAMES[0]: (400_000, 2),
        NAMES[1]: (400_000, 2),
    }
    assert totals.pop("head")["sequence"] == 1
    assert totals == {
        "issued_micros": 1_000_000,
        "owners_micros": 800_000,
        "unattributed_micros": 0,
        "suspense_micros": 200_000,
        "held_micros": 0,
        "paid_micros": 0,
        "reconciles": True,
        "postings": 1,
    }


def test_totals_for_people_show_six_decimals_and_take_names_as_text(data: Path) -> None:
    output = run(ledger, "totals", "--data", str(data)).stdout
    assert "issued 1.000000 = owners 0.800000 + unattributed 0.000000 + suspense 0.200000" in output
    assert "[red]Ada[/red]" in output
    assert "Ben [/]" in output


def test_explain_says_why(data: Path) -> None:
    explained = as_json(ledger, "explain", "generation-1", "--data", str(data))
    assert explained["replay_equal"] is True
    assert [contributor["credit_micros"] for contributor in explained["contributors"]] == [200_000] * 5
    assert {contributor["key"] for contributor in explained["contributors"]} == {
        f"work-{number}" for number in range(5)
    }
    assert {
        payment["display_name"] for contributor in explained["contributors"] for payment in contributor["payments"]
    } == {
        *NAMES,
        "suspense",
    }
    assert explained["evidence"]["policy"]["policy"] == "paper@1"
    output = run(ledger, "explain", "generation-1", "--data", str(data)).stdout
    assert "policy paper@1 (depth 200, k 50, temperature 1)" in output
    assert "0.200000" in output
    assert "gives the same credits" in output


def test_explain_of_nothing(data: Path) -> None:
    with pytest.raises(NotFound, match="nothing was posted"):
        run(ledger, "explain", "another", "--data", str(data))


def test_replay_and_verify_pass_on_a_sound_ledger(data: Path) -> None:
    assert as_json(ledger, "replay", "--data", str(data)) == {"replayed": 1, "equal": 1, "different": []}
    assert as_json(ledger, "replay", "generation-1", "--data", str(data))["equal"] == 1
    report = as_json(ledger, "verify", "--data", str(data))
    assert report["ok"] is True
    head = f"{report['head']['sequence']}:{report['head']['hash']}"
    assert as_json(ledger, "verify", "--head", head, "--data", str(data))["problem"] is None
    assert head in run(ledger, "verify", "--data", str(data)).stdout
    assert read_verification(data) is None
    run(ledger, "verify", "--record", "--data", str(data))
    assert read_verification(data) == LastVerification(ANY, True, 1)


def test_a_ledger_that_cannot_be_read_is_kept_as_not_verified(data: Path) -> None:
    with ledger_file(data).open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 40_000)
    with pytest.raises(Failure):
        run(ledger, "verify", "--record", "--data", str(data))
    assert read_verification(data) == LastVerification(ANY, False, 0)


def test_verify_exits_1_and_names_the_row(data: Path) -> None:
    connection = sqlite3.connect(ledger_file(data))
    connection.executescript("DROP TRIGGER entries_no_update; UPDATE entries SET account = 'held' WHERE line = 2;")
    connection.close()
    result = run(ledger, "verify", "--record", "--data", str(data))
    assert result.exit_code == 1
    assert read_verification(data) == LastVerification(ANY, False, 1)
    assert result.stdout.startswith("posting 1, line 2: entry was changed")
    assert json.loads(run(ledger, "verify", "--json", "--data", str(data)).stdout)["problem"]["line"] == 2


def test_a_head_that_is_none_is_refused(data: Path) -> None:
    with pytest.raises(InvalidInput, match="SEQUENCE:HASH"):
        run(ledger, "verify", "--head", "1:abc", "--data", str(data))


def test_without_a_catalogue_owners_are_shown_by_account(data: Path) -> None:
    (data / "catalogue.sqlite").unlink()
    totals = as_json(ledger, "totals", "--data", str(data))
    assert all(owner["display_name"] == f"owner:{owner['owner_id']}" for owner in totals["owners"])
    assert as_json(ledger, "explain", "generation-1", "--data", str(data))["contributors"][0]["key"] == ""


def test_without_a_ledger_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingData, match="`gmvaluator serve` begins one"):
        run(ledger, "totals", "--data", str(tmp_path))


def test_generators_are_added_and_listed(data: Path) -> None:
    folder = ("--data", str(data))
    assert "no generator is registered" in run(generators, "list", *folder).stdout
    words = ("--data-set", "paintings", "--data-set", "paintings", "--policy", "paper@1")
    added = as_json(generators, "add", "demo-1", *words, *folder)
    assert added == {
        "model_version": "demo-1",
        "collection": "works",
        "data_sets": ["paintings"],
        "policy": "paper@1",
    }
    assert as_json(generators, "list", *folder) == {"generators": [added]}
    assert "demo-1: trained on paintings; valued by paper@1" in run(generators, "list", *folder).stdout


@pytest.mark.parametrize("group", [ledger, generators])
def test_every_command_has_a_sentence_and_an_example(group: Any) -> None:
    for command in [group, *group.commands.values()]:
        assert command.help
        assert "Example: gmvaluator" in command.help
