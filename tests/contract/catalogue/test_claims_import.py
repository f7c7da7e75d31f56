"""Import of claims: splits sum to one, sales change the future only, rejected rows are listed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unicodedata import normalize

import pytest
from click.testing import CliRunner

from gmvaluator.catalogue.claims_import import read_claims
from gmvaluator.catalogue.search import find_work, find_works, rights_as_dict
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.commands.main import gmvaluator
from gmvaluator.errors import InvalidInput, InvalidManifest, NotFound
from gmvaluator.storage.database import DataLocation
from gmvaluator.testing.postings import sample_work
from tests.support.scenes import NOVEMBER, OCTOBER, SEPTEMBER, import_rights, record, sha256_of, work

HEAD = "sha256,owner_id,owner_name,share_ppm,valid_from,valid_to,origin\n"


def paid(place: DataLocation, number: int, at: object = NOVEMBER) -> dict[str, int]:
    with open_catalogue(place) as catalogue:
        (card,) = catalogue.works([sample_work(number)], at).values()  # type: ignore[arg-type]
    return {payee.display_name: payee.share_ppm for payee in card.beneficiaries}


def test_a_split_is_recorded_once(place: DataLocation, tmp_path: Path) -> None:
    record(place, work(1, None))
    text = HEAD + "".join(f"{sha256_of(1)},{name},{name.title()},{share},,,\n" for name, share in SPLIT.items())
    result = import_rights(place, tmp_path, text)
    assert (result.rows, result.added, result.rejected) == (3, 3, [])
    assert paid(place, 1) == {"Ada": 333_333, "Ben": 333_333, "Cleo": 333_334}
    again = import_rights(place, tmp_path, text)
    assert (again.rows, again.unchanged, again.works) == (3, 3, set())


SPLIT = {"ada": 333_333, "ben": 333_333, "cleo": 333_334}


def test_a_sale_changes_what_comes_after_it(place: DataLocation, tmp_path: Path) -> None:
    record(place, work(1, "ada"))
    result = import_rights(
        place,
        tmp_path,
        HEAD
        + f"{sha256_of(1)},ada,,1000000,,2026-10-01,data_set:paintings\n"
        + f"{sha256_of(1)},ben,Ben,1000000,2026-10-01,,contract-9\n",
    )
    assert (result.changed, result.added, result.rejected) == (1, 1, [])
    assert paid(place, 1, SEPTEMBER) == {"Ada <Artist>": 1_000_000}
    assert paid(place, 1, OCTOBER) == {"Ben": 1_000_000}
    with open_catalogue(place) as catalogue:
        shown = rights_as_dict(catalogue, find_work(catalogue, "work-1"), OCTOBER)
    assert [(claim["display_name"], claim["origin"]) for claim in shown["claims"]] == [
        ("Ben", "contract-9"),
        ("Ada <Artist>", "data_set:paintings"),
    ]
    assert [claim["valid_to"][:4] for claim in shown["former_claims"]] == ["9999"]


def test_a_competing_claim_is_withdrawn(place: DataLocation, tmp_path: Path) -> None:
    record(place, work(1, "ada"), work(1, "ben", "posters"))
    assert paid(place, 1) == {"(held: claims compete)": 1_000_000}
    result = import_rights(place, tmp_path, HEAD + f"{sha256_of(1)},ben,,0,,,data_set:posters\n")
    assert (result.withdrawn, result.rejected) == (1, [])
    assert paid(place, 1) == {"Ada <Artist>": 1_000_000}
    again = import_rights(place, tmp_path, HEAD + f"{sha256_of(1)},ben,,0,,,data_set:posters\n")
    assert "not there" in again.rejected[0].reason


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("{0},ada,,900000,,,\n", "sum to 900,000 ppm"),
        ("{0},ada,,600000,,,\n{0},ben,,600000,,,\n", "sum to 1,200,000 ppm"),
        ("{0},ada,,1000000,,2026-10-01,\n{0},ben,,1000000,2026-09-01,,\n", "from 2026-09-01 on"),
        ("{0},ada,,500000,,,\n{0},ada,,500000,,,\n", "same claim as line 2"),
        ("{0},ada,,1000001,,,\n", "whole number"),
        ("{0},ada,,-5,,,\n", "whole number"),
        ("{0},ada,,1e6,,,\n", "whole number"),
        ("{0},,,1000000,,,\n", "owner_id"),
        ("{0},ada,,1000000,2026-13-01,,\n", "no time"),
        ("{0},ada,,1000000,2026-10-01T00:00:00,,\n", "no time zone"),
        ("{0},ada,,1000000,2026-10-01,2026-10-01,\n", "not before"),
        ("{0},ada,,1000000,,\n", "cells"),
        ("{0},a\x07b,,1000000,,,\n", "a control character"),
        ("abc,ada,,1000000,,,\n", "64 hex digits"),
        (",ada,,1000000,,,\n", "names no work"),
        ("{9},ada,,1000000,,,\n", "no such work"),
    ],
)
def test_a_bad_row_is_rejected_and_stops_nothing(place: DataLocation, tmp_path: Path, rows: str, reason: str) -> None:
    record(place, work(1, None), work(2, None))
    hashes = [sha256_of(1), *[""] * 8, sha256_of(99)]
    result = import_rights(place, tmp_path, HEAD + rows.format(*hashes) + f"{sha256_of(2)},ben,Ben,1000000,,,\n")
    assert reason in result.rejected[0].reason
    assert result.rejected[0].line == 2
    assert (result.rows, result.added) == (len(result.rejected) + 1, 1)
    assert paid(place, 1) == {"(owner unknown)": 1_000_000}
    assert paid(place, 2) == {"Ben": 1_000_000}


def test_less_than_one_is_taken_on_purpose(place: DataLocation, tmp_path: Path) -> None:
    record(place, work(1, None))
    result = import_rights(place, tmp_path, HEAD + f"{sha256_of(1)},ada,Ada,250000,,,\n", partial=True)
    assert result.added == 1
    assert paid(place, 1) == {"Ada": 250_000, "(owner unknown)": 750_000}


def test_a_work_is_named_by_its_key_in_a_data_set(place: DataLocation, tmp_path: Path) -> None:
    record(place, work(1, None), work(2, None), work(2, None, "posters"))
    head = "data_set,key,owner_id,owner_contact,share_ppm\n"
    rows = "paintings,work-1,ada,ada@example.org,1000000\nposters,work-1,ada,,1000000\nposters,work-2,ben,,1000000\n"
    result = import_rights(place, tmp_path, head + rows)
    assert (result.added, [row.line for row in result.rejected]) == (2, [3])
    assert paid(place, 1) == {"ada": 1_000_000}
    with open_catalogue(place) as catalogue:
        assert find_work(catalogue, "work-2", "posters") == sample_work(2)
        assert find_work(catalogue, str(sample_work(2))) == sample_work(2)
        with pytest.raises(NotFound):
            find_work(catalogue, "work-9")


def test_a_key_of_several_works_names_none(place: DataLocation, tmp_path: Path) -> None:
    record(place, work(1, None))
    with open_catalogue(place, write=True) as catalogue:
        catalogue.record([work(2, None).__class__(sample_work(3), sha256_of(3), 8, 8, "paintings", "work-1", "")])
    with open_catalogue(place) as catalogue, pytest.raises(InvalidInput, match="several"):
        find_work(catalogue, "work-1")
    result = import_rights(place, tmp_path, "data_set,key,owner_id,share_ppm\npaintings,work-1,ada,1000000\n")
    assert "2 works" in result.rejected[0].reason


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256,owner_id\n",
        "owner_id,share_ppm\n",
        "sha256,owner_id,share_ppm,valid_until\n",
        "sha256,owner_id,share_ppm,share_ppm\n",
        'sha256,owner_id,share_ppm\n"a\n',
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "rights.csv").write_text(text)
    with pytest.raises(InvalidManifest):
        list(read_claims(tmp_path / "rights.csv", "test"))
    (tmp_path / "rights.csv").write_bytes(b"sha256,owner_id,share_ppm\n\xff,a,1\n")
    with pytest.raises(InvalidManifest):
        list(read_claims(tmp_path / "rights.csv", "test"))
    with pytest.raises(InvalidManifest):
        list(read_claims(tmp_path / "none.csv", "test"))


def imported(folder: Path, text: str, *options: str, name: str = "rights.csv") -> tuple[int, str]:
    """Import a file by the command; return its exit code and what it printed."""
    (folder / name).write_text(text, encoding="utf-8")
    result = CliRunner().invoke(gmvaluator, ["rights", "import", str(folder / name), "--data", str(folder), *options])
    return result.exit_code, result.output


def test_an_import_that_changes_nothing_because_no_row_is_good_fails(tmp_path: Path) -> None:
    record(DataLocation(tmp_path), work(1, None))
    bad, good = f"{sha256_of(9)},ada,,1000000,,,\n", f"{sha256_of(1)},ada,,1000000,,,\n"
    for text, said in ((HEAD + bad, "every row was rejected"), (HEAD, "no row below its header")):
        code, output = imported(tmp_path, text)
        assert code == 1
        assert said in output
    assert imported(tmp_path, HEAD + bad + good)[0] == 0
    assert imported(tmp_path, HEAD + good)[0] == 0


def test_an_import_says_how_many_works_it_leaves_held(tmp_path: Path) -> None:
    record(DataLocation(tmp_path), work(1, None), work(2, None))
    rows = "".join(f"{sha256_of(number)},ada,,1000000,,,\n" for number in (1, 2))
    assert "held: claims compete" not in imported(tmp_path, HEAD + rows)[1]
    corrected = rows.replace(f"{sha256_of(2)},ada", f"{sha256_of(2)},ben")
    code, output = imported(tmp_path, HEAD + corrected, name="corrected.csv")
    assert code == 0
    assert "1 of these works are now held: claims compete" in output
    assert "--origin" in output
    withdrawn = f"{sha256_of(2)},ada,,0,,,rights:rights\n"
    assert "held" not in imported(tmp_path, HEAD + withdrawn)[1]
    assert paid(DataLocation(tmp_path), 2) == {"ben": 1_000_000}


@pytest.mark.parametrize(("stored", "named"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_key_is_found_in_another_unicode_normal_form(
    place: DataLocation, tmp_path: Path, stored: Literal["NFC", "NFD"], named: Literal["NFC", "NFD"]
) -> None:
    stored_key, named_key = (normalize(form, "Café/naïve.png") for form in (stored, named))
    record(place, replace(work(1, None), key=stored_key))
    result = import_rights(place, tmp_path, f"data_set,key,owner_id,share_ppm\npaintings,{named_key},ada,1000000\n")
    assert (result.added, result.rejected) == (1, [])
    with open_catalogue(place) as catalogue:
        assert find_work(catalogue, named_key) == sample_work(1)
        with catalogue.snapshot() as connection:
            assert find_works(connection, named_key[:5], 10) == [sample_work(1)]


def test_key_that_is_exactly_so_comes_before_its_other_forms(place: DataLocation, tmp_path: Path) -> None:
    composed, decomposed = normalize("NFC", "é.png"), normalize("NFD", "é.png")
    record(place, replace(work(1, None), key=composed), replace(work(2, None), key=decomposed))
    import_rights(place, tmp_path, f"data_set,key,owner_id,share_ppm\npaintings,{decomposed},ada,1000000\n")
    assert (paid(place, 1), paid(place, 2)) == ({"(owner unknown)": 1_000_000}, {"ada": 1_000_000})


def test_json_lists_the_first_rejected_rows_and_a_file_all(tmp_path: Path) -> None:
    place = DataLocation(tmp_path / "data")
    record(place, work(1, None))
    file = tmp_path / "rights.csv"
    rows = f"{sha256_of(1)},ada,1000000\n" + "".join(f"nonsense-{number},ben,1\n" for number in range(150))
    file.write_text("sha256,owner_id,share_ppm\n" + rows)
    words = ["rights", "import", str(file), "--data", str(place.folder)]
    imported = json.loads(CliRunner().invoke(gmvaluator, [*words, "--json"]).stdout)
    assert (imported["rejected"], len(imported["rejects"])) == (150, 100)
    rejects = [json.loads(line) for line in Path(imported["rejects_file"]).read_text().splitlines()]
    assert (rejects[:100], len(rejects)) == (imported["rejects"], 150)
    assert imported["rejects_file"] in CliRunner().invoke(gmvaluator, words).stderr
    file.write_text(f"sha256,owner_id,share_ppm\n{sha256_of(1)},ada,1000000\n")
    again = json.loads(CliRunner().invoke(gmvaluator, [*words, "--json"]).stdout)
    assert (again["rejects"], again["rejects_file"], Path(imported["rejects_file"]).exists()) == ([], None, False)
