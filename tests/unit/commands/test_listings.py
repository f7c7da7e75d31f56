"""Lists and names: what is recorded can be found, and people need not type UUIDs."""

import hashlib
import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gmvaluator.accounts import owner_account
from gmvaluator.catalogue.records import NewWork, OwnerReference
from gmvaluator.commands.main import run
from gmvaluator.ids import sha256_hex, training_image_id
from gmvaluator.ledger.store import open_ledger
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_collage, sample_posting
from tests.support.scenes import NOVEMBER, attribute, owner_named, record

IDS = ("7001", "0003", "2", "job-1", "job-12")
"""Ids of the generations, in the order of posting: some are also numbers of postings, and some begin alike."""

FILE = b"the bytes of an image"


def named_work(number: int, manifest_id: str, name: str, data_set: str = "paintings") -> NewWork:
    sha256 = sha256_hex(str(number).encode())
    return NewWork(
        training_image_id(sha256), sha256, 8, 8, data_set, f"work-{number}", "", title=f"Work {number}",
        owner=OwnerReference(manifest_id, name),
    )  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> DataLocation:
    location = DataLocation(tmp_path_factory.mktemp("data"))
    record(
        location,
        named_work(1, "ada", "Ada Lovelace"),
        named_work(2, "twin-1", "Twin"),
        named_work(3, "twin-2", "Twin", "drawings"),
    )
    with open_ledger(location, write=True) as book:
        for name in IDS:
            attribute(location, name, [1, 2], NOVEMBER, book=book)
        book.post([sample_posting(9, generation=f"sha256:{sha256_hex(FILE)}", model_version="other")])
    return location


Command = Callable[..., Any]


@pytest.fixture
def ok(place: DataLocation, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command with --json and return what it printed."""

    def ok(*words: object) -> Any:
        assert run([*map(str, words), "--data", str(place.folder), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return ok


@pytest.fixture
def refused(place: DataLocation, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command that must fail with exit code 2, and return its line."""

    def refused(*words: object) -> str:
        assert run([*map(str, words), "--data", str(place.folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return str(line)

    return refused


def test_postings_are_listed_newest_first_by_owner_generator_and_time(ok: Command, place: DataLocation) -> None:
    listed = ok("ledger", "list")["postings"]
    assert [row["sequence"] for row in listed] == [6, 5, 4, 3, 2, 1]
    assert [row["sequence"] for row in ok("ledger", "list", "--limit", 2)["postings"]] == [6, 5]
    assert [row["sequence"] for row in ok("ledger", "list", "--generator", "other")["postings"]] == [6]
    for owner in ("ada", "Ada Lovelace", "ada lovelace", owner_named(place, "ada")):
        assert len(ok("ledger", "list", "--owner", owner)["postings"]) == len(IDS)
    posted_at = listed[0]["posted_at"]
    assert ok("ledger", "list", "--until", "2020-01-01T00:00:00+00:00") == {"postings": []}
    assert ok("ledger", "list", "--since", posted_at.replace("Z", "+00:00"))["postings"][0]["sequence"] == 6


@pytest.mark.parametrize("option", ["--since", "--until"])
def test_a_time_without_a_zone_is_refused(refused: Command, option: str) -> None:
    assert "with its zone" in refused("ledger", "list", option, "2026-11-01")


@pytest.mark.parametrize(
    ("text", "sequence"),
    [("7001", 1), ("0003", 2), ("2", 3), ("#2", 2), ("4", 4), ("job-1", 4), ("job-12", 5)],
)
def test_a_posting_is_found_by_its_id_before_its_number(ok: Command, text: str, sequence: int) -> None:
    assert ok("ledger", "explain", text)["sequence"] == sequence


def test_a_posting_is_found_by_the_beginning_of_its_id_and_by_its_file(ok: Command, tmp_path: Path) -> None:
    digest = hashlib.sha256(FILE).hexdigest()
    image = tmp_path / "a.png"
    image.write_bytes(FILE)
    for text in (digest[:8], f"sha256:{digest[:6]}", image):
        assert ok("ledger", "explain", text)["sequence"] == 6


def test_an_id_that_means_several_or_nothing_is_refused(refused: Command) -> None:
    line = refused("ledger", "explain", "job-")
    assert "job-1 (posting 4)" in line
    assert "job-12 (posting 5)" in line
    assert "ledger list" in refused("ledger", "explain", "nothing-like-it")
    assert "ledger list" in refused("ledger", "explain", "99")


def test_owners_are_listed_and_shown_by_any_name(ok: Command, place: DataLocation) -> None:
    listed = ok("owners", "list")["owners"]
    assert [(owner["display_name"], owner["works"]) for owner in listed] == [
        ("Ada Lovelace", 1),
        ("Twin", 1),
        ("Twin", 1),
    ]
    ada = owner_named(place, "ada")
    for text in (ada, owner_account(ada), "ada", "Ada Lovelace", "ADA LOVELACE", str(ada)[:8]):
        shown = ok("owners", "show", text)
        assert (shown["owner_id"], shown["works"]) == (str(ada), 1)
        assert shown["balance_micros"] > 0


def test_an_ambiguous_name_lists_the_uuids(refused: Command, place: DataLocation) -> None:
    line = refused("owners", "show", "Twin")
    for manifest_id in ("twin-1", "twin-2"):
        assert str(owner_named(place, manifest_id)) in line
    assert "owners list" in refused("owners", "show", "nobody")
    assert "owners list" in refused("owners", "show", uuid.UUID(int=5))


def test_names_are_accepted_where_a_uuid_is(ok: Command, refused: Command, place: DataLocation) -> None:
    ada = str(owner_named(place, "ada"))
    assert ok("ledger", "statement", "ada", "2026-11")["owner_id"] == ada
    assert ok("token", "new", "--role", "owner", "--owner", "Ada Lovelace")["owner"] == ada
    assert "2 owners are 'Twin'" in refused("ledger", "statement", "Twin", "2026-11")
    assert "no owner is 'nobody'" in refused("token", "new", "--role", "owner", "--owner", "nobody")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("ledger", "replay", "--identity", "farm-1"), "name GENERATION too"),
        (
            ("ledger", "dispute", "open", "case-1", "--work", "work-1", "--identity", "x", "--reason", "mine"),
            "give --generation too",
        ),
        (("ledger", "statement", "ada", "2026-11", "--format", "csv", "--json"), "contradict each other"),
        (("ledger", "statement", "ALL", "2026-11", "--format", "json", "--out", "x"), "writes every format"),
    ],
)
def test_an_option_without_effect_is_refused(refused: Command, words: Sequence[str], reason: str) -> None:
    assert reason in refused(*words)


def test_a_generator_is_registered_in_no_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["add", "demo-9", "--data-set", "set", "--policy", "paper@1", "--data", str(tmp_path / "none")]
    assert run(["generators", *words]) == 2
    assert "there is no catalogue" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_works_are_listed_and_shown(ok: Command, refused: Command) -> None:
    assert len(ok("works", "list")["works"]) == 3
    (drawing,) = ok("works", "list", "--data-set", "drawings")["works"]
    (own,) = ok("works", "list", "--owner", "ada")["works"]
    assert drawing["sources"][0]["key"] == "work-3"
    assert [owner["display_name"] for owner in own["owners"]] == ["Ada Lovelace"]
    for text in (own["training_image_id"], own["sha256"], "work-1", own["training_image_id"][:10], own["sha256"][:9]):
        assert ok("works", "show", text)["sha256"] == own["sha256"]
    assert "works list" in refused("works", "show", "nothing")


def test_data_sets_policies_and_generators_are_listed_and_generators_removed(
    ok: Command, refused: Command, place: DataLocation
) -> None:
    ok("generators", "add", "demo-9", "--data-set", "drawings", "--policy", "paper@1")
    data_sets = {row["name"]: (row["works"], row["generators"]) for row in ok("data-sets", "list")["data_sets"]}
    assert data_sets == {"drawings": (1, ["demo-9"]), "paintings": (2, [])}
    policies = {row["policy"]: row for row in ok("policies", "list")["policies"]}
    assert policies["paper@1"]["shipped"]
    assert ok("policies", "show", "paper@1")["k"] == 50
    assert ok("generators", "remove", "demo-9") == {"removed": "demo-9"}
    assert ok("generators", "list") == {"generators": []}
    assert "demo-9" in refused("generators", "remove", "demo-9")


def test_a_policy_file_that_cannot_be_used_is_listed_with_its_fault(ok: Command, place: DataLocation) -> None:
    folder = place.folder / "policies"
    folder.mkdir(exist_ok=True)
    (folder / "bad@1.toml").write_text("policy = 'bad@1'\nk = 'many'\n")
    rows = {row["policy"]: row["fault"] for row in ok("policies", "list")["policies"]}
    (folder / "bad@1.toml").unlink()
    assert rows["bad@1"]
    assert not rows["paper@1"]


def test_the_head_that_attribute_prints_is_verified(ok: Command, place: DataLocation) -> None:
    with open_ledger(place) as book:
        (posting,) = book.postings_after(2, 1)
    head = f"3:{posting.hash[:16]}"
    assert ok("ledger", "verify", "--head", head)["ok"]
    assert ok("ledger", "verify", "--head", f"3:{posting.hash}")["ok"]
    wrong = "0" * 8 if posting.hash[:8] != "0" * 8 else "1" * 8
    assert run(["ledger", "verify", "--head", f"3:{wrong}", "--data", str(place.folder)]) == 1
    assert run(["ledger", "verify", "--head", "3:abc", "--data", str(place.folder)]) == 2


def test_explain_fits_a_terminal_and_leaves_small_rows_to_all(
    place: DataLocation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gmvaluator.ledger.explain._PIPE_COLUMNS", 80)
    words = ["ledger", "explain", "7001", "--data", str(place.folder)]
    assert run(words) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("│", "┃"))]
    assert table
    assert max(map(len, table)) <= 80
    assert "similarity" not in table[0]
    assert "thumbnail" not in table[0]
    monkeypatch.setattr("gmvaluator.ledger.explain.MIN_SHOWN_MICROS", 10**9)
    assert run(words) == 0
    assert "2 more earned" in capsys.readouterr().out
    assert run([*words, "--all"]) == 0
    everything = capsys.readouterr().out
    assert "more earned" not in everything
    assert "work-1" in everything


def test_explain_says_how_much_of_the_image_each_verified_work_covers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_ledger(tmp_path, write=True) as book:
        book.post([sample_collage()])
    monkeypatch.setattr("gmvaluator.ledger.explain._PIPE_COLUMNS", 80)
    words = ["ledger", "explain", "collage-0", "--data", str(tmp_path)]
    assert run(words) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "visible" in line]
    assert lines == [
        "rank 1: visible in 33% of the image, 41 matches",
        "rank 2: visible in 67% of the image, 24 matches",
    ]
    assert run([*words, "--json"]) == 0
    explained = json.loads(capsys.readouterr().out)
    visible = [row["visible"] for row in explained["contributors"]]
    assert visible[0]["image_share"] == pytest.approx(1 / 3)
    assert len(visible[0]["region"]) == len(visible[0]["work_region"]) == 64
    assert visible[0]["inliers"] == 41
    assert visible[2] is None
    assert explained["replay_equal"]
