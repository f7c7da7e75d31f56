"""`index remove`: what is removed is found no more, and no later run of any source brings it back."""

import json
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from gmvaluator.catalogue.removal import Selection
from gmvaluator.catalogue.store import open_catalogue
from gmvaluator.commands.main import gmvaluator
from gmvaluator.files import FileLock
from gmvaluator.ids import sha256_hex, training_image_id
from gmvaluator.index.engine.files import copy_tree
from gmvaluator.index.engine.launcher import ENGINE_LOCK
from gmvaluator.index.opening import open_store
from gmvaluator.index.schema import KEY_GROUP, KEY_KEY, KEY_URI
from gmvaluator.index.store import QdrantStore

OWNERS = ("ada", "ben", "cleo")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of three owners, and them indexed."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "pictures").mkdir()
    rows = ["file_name,title,owner_id"]
    for number in range(12):
        image = Image.new("RGB", (24, 16), (number * 20, 255 - number * 20, 90))
        image.save(folder / "pictures" / f"{number:02}.png")
        rows.append(f"{number:02}.png,Canary title {number:02},{OWNERS[number % 3]}")
    (folder / "pictures" / "manifest.csv").write_text("\n".join(rows) + "\n")
    assert add(folder / "pictures", folder / "data")["points"] == 12
    wait_for_the_engine(folder / "data")
    return folder


def wait_for_the_engine(data: Path) -> None:
    """It ends shortly after its last user."""
    with closing(FileLock(data / "index" / ENGINE_LOCK)) as engine:
        assert engine.acquire(timeout_s=60)


@pytest.fixture
def data(template: Path, tmp_path: Path) -> Path:
    """The index."""
    copy_tree(template / "data", tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def pictures(template: Path, tmp_path: Path) -> Path:
    """The pictures in it."""
    copy_tree(template / "pictures", tmp_path / "pictures")
    return tmp_path / "pictures"


def index(*words: object) -> Any:
    """`gmvaluator index WORDS --json`, which has to succeed; its data."""
    done = CliRunner().invoke(gmvaluator, ["index", *map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def add(pictures: Path, data: Path, *words: object) -> Any:
    return index("add", pictures, "--data", data, "--data-set", "set", "--profile", "stub", *words)


def remove(data: Path, *words: object) -> Any:
    return index("remove", *words, "--data", data, "--yes")


@contextmanager
def opened(data: Path) -> Iterator[QdrantStore]:
    with closing(open_store(data / "index")) as store:
        yield store


def keys(data: Path) -> set[str]:
    with opened(data) as store:
        return {str(point.payload[KEY_KEY]) for point in store.scan()}


def sha(pictures: Path, number: int) -> str:
    return sha256_hex((pictures / f"{number:02}.png").read_bytes())


def test_what_is_meant_is_shown_before_anything_is_done(data: Path) -> None:
    shown = index("remove", "--key", "03.png", "--key", "nothing.png", "--data", data, "--dry-run")
    assert shown == {
        "works": 1,
        "removed_before": 0,
        "shared": 0,
        "unmatched": ["nothing.png"],
        "unmatched_entries": 1,
        "unmatched_file": str(data / "left-out" / "remove.unmatched.txt"),
        "removed": None,
        "purged": None,
    }
    refused = CliRunner().invoke(gmvaluator, ["index", "remove", "--key", "03.png", "--data", str(data)], input="n\n")
    assert refused.exit_code == 1
    assert len(keys(data)) == 12


def test_key_hash_owner_and_list_each_name_works(data: Path, pictures: Path, tmp_path: Path) -> None:
    assert remove(data, "--key", "03.png")["removed"] == {"works": 1, "points": 1, "thumbnails": 1, "places": 1}
    assert remove(data, "--sha256", sha(pictures, 4))["works"] == 1
    assert remove(data, "--owner", "cleo")["works"] == 4
    (tmp_path / "list").write_text(f"00.png\n# these\n\n{sha(pictures, 1).upper()}\nowner:ben\n", encoding="utf-8-sig")
    found = remove(data, "--from", tmp_path / "list")
    assert (found["works"], found["removed_before"], found["removed"]["points"]) == (5, 1, 4)
    assert found["unmatched"] == []
    assert keys(data) == {"06.png", "09.png"}
    assert len(list((data / "thumbnails").rglob("*.webp"))) == 2


def test_it_does_not_come_back(data: Path, pictures: Path, tmp_path: Path) -> None:
    """Neither the bytes, under whatever name, nor another picture in the record that was named.

    The folder has moved since the first run: the record is known where it is now.
    """
    add(pictures, data)
    remove(data, "--key", "03.png", "--sha256", sha(pictures, 4))
    Image.new("RGB", (24, 16), "white").save(pictures / "03.png")
    (pictures / "copy.png").write_bytes((pictures / "04.png").read_bytes())
    with (pictures / "manifest.csv").open("a") as manifest:
        manifest.write("copy.png,A copy,ada\n")
    report = add(pictures, data)
    counts = {name: report[name] for name in ("read", "points", "duplicates", "opt_outs", "rejects", "removed")}
    assert counts == {"read": 13, "points": 0, "duplicates": 10, "opt_outs": 0, "rejects": 0, "removed": 3}
    assert report["reconciles"]
    assert {row["key"]: row["kind"] for row in report["left_out"]} == dict.fromkeys(
        ("03.png", "04.png", "copy.png"), "removed"
    )
    assert len(keys(data)) == 10


def test_an_unknown_hash_is_kept_out_in_advance(data: Path, pictures: Path) -> None:
    Image.new("RGB", (9, 9), "white").save(pictures / "new.png")
    assert remove(data, "--sha256", sha256_hex((pictures / "new.png").read_bytes()))["removed"]["points"] == 0
    with (pictures / "manifest.csv").open("a") as manifest:
        manifest.write("new.png,New,ada\n")
    assert add(pictures, data)["removed"] == 1


def test_who_opts_out_of_what_is_indexed_is_told_how_it_leaves(data: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"03.png\n{sha(pictures, 4)}\n{'0' * 64}\n", encoding="utf-8-sig")
    words = ("add", pictures, "--data", data, "--data-set", "set", "--profile", "stub", "--opt-out", tmp_path / "list")
    report = index(*words)
    assert (report["opt_outs"], report["duplicates"], report["still_indexed"]["works"]) == (2, 10, 2)
    assert len(keys(data)) == 12
    said = CliRunner().invoke(gmvaluator, ["index", *map(str, words)]).output
    assert f"gmvaluator index remove --from {report['still_indexed']['file']}" in said
    assert remove(data, "--from", report["still_indexed"]["file"])["removed"]["points"] == 2
    assert keys(data).isdisjoint({"03.png", "04.png"})
    assert index(*words)["still_indexed"] is None


def test_a_list_counts_for_what_a_run_without_it_read(data: Path, template: Path, tmp_path: Path) -> None:
    """The run that was cut off is not taken up under another list."""
    with closing(sqlite3.connect(data / "catalogue.sqlite")) as database, database:
        database.execute("UPDATE index_runs SET finished_at = NULL")
    (tmp_path / "list").write_text("03.png\n")
    words = ("add", template / "pictures", "--data", data, "--data-set", "set", "--profile", "stub")
    report = index(*words, "--opt-out", tmp_path / "list")
    assert (report["read"], report["opt_outs"], report["duplicates"]) == (12, 1, 11)


def test_a_removal_is_taken_back(data: Path, pictures: Path) -> None:
    """A removal by hash keeps out that content alone, whatever record it was in."""
    remove(data, "--key", "03.png", "--sha256", sha(pictures, 4), "--owner", "cleo")
    words = ("restore", "--owner", "cleo", "--sha256", sha(pictures, 4), "--key", "no.png", "--data", data)
    assert index(*words, "--dry-run")["works"] == 5
    restored = index(*words)
    assert (restored["works"], restored["unmatched"]) == (5, ["no.png"])
    Image.new("RGB", (24, 16), "white").save(pictures / "04.png")
    report = add(pictures, data)
    assert (report["points"], report["duplicates"], report["removed"]) == (5, 6, 1)
    refused = CliRunner().invoke(gmvaluator, ["index", "restore", *map(str, words[1:])])
    assert "nothing that is named was removed" in str(refused.exception) + refused.output


@pytest.fixture
def downloads(tmp_path: Path) -> Path:
    """Two downloads by img2dataset, each of which counts its keys from zero."""
    for number, part in enumerate(("a", "b")):
        folder = tmp_path / "downloads" / part
        folder.mkdir(parents=True)
        picture = BytesIO()
        Image.new("RGB", (24, 16), (number * 99, 7, 7)).save(picture, "PNG")
        metadata = {"key": "0000", "status": "success", "original_width": 9, "url": f"https://x/{part}.jpg"}
        with tarfile.open(folder / "00000.tar", "w") as archive:
            for ending, content in (("png", picture.getvalue()), ("json", json.dumps(metadata).encode())):
                member = tarfile.TarInfo(f"0000.{ending}")
                member.size = len(content)
                archive.addfile(member, BytesIO(content))
    return tmp_path / "downloads"


def uris(data: Path) -> list[str]:
    """The last folders of the works in the index."""
    with opened(data) as store:
        return sorted(str(point.payload[KEY_URI]).split("/")[-2] for point in store.scan())


def test_an_opt_out_by_url_concerns_one_of_the_records_with_its_key(downloads: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (tmp_path / "list").write_text("https://x/a.jpg\n")
    assert add(downloads, data)["points"] == 2
    refused = CliRunner().invoke(gmvaluator, ["index", "remove", "--key", "0000", "--yes", "--data", str(data)])
    assert "2 works have the key '0000'" in str(refused.exception) + refused.output
    still = add(downloads, data, "--opt-out", tmp_path / "list")["still_indexed"]
    assert (still["works"], still["shared"]) == (1, 0)
    assert remove(data, "--from", still["file"])["removed"]["points"] == 1
    assert uris(data) == ["b"]


def test_entries_that_name_nothing_are_reported_and_fail_a_strict_run(
    data: Path, template: Path, tmp_path: Path
) -> None:
    (tmp_path / "list").write_text(f"# a comment\n03.png\n{'0' * 64}  gone.png\n#no.png\n")
    words = ["index", "add", str(template / "pictures"), "--data", str(data), "--data-set", "set", "--profile", "stub"]
    words += ["--opt-out", str(tmp_path / "list")]
    report = index(*words[1:])["opt_outs_unmatched"]
    assert report["first"] == [f"line 3: {'0' * 64}  gone.png", "line 4: #no.png"]
    assert Path(report["file"]).read_text().splitlines() == report["first"]
    strict = CliRunner().invoke(gmvaluator, [*words, "--strict"])
    assert strict.exit_code == 1
    assert "2 entries of the opt-out list name nothing" in strict.output
    (tmp_path / "list").write_text("03.png\n")
    assert CliRunner().invoke(gmvaluator, [*words, "--strict"]).exit_code == 0


def test_a_removal_list_reports_what_it_names_in_vain(data: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"03.png\nno.png\nsha256:{'0' * 64}\n")
    words = ["index", "remove", "--from", str(tmp_path / "list"), "--data", str(data), "--yes", "--strict", "--json"]
    done = CliRunner().invoke(gmvaluator, words)
    report = json.loads(done.stdout)
    assert (done.exit_code, report["unmatched_entries"], report["removed"]["points"]) == (1, 2, 1)
    assert report["unmatched"] == ["line 2: no.png", f"line 3: sha256:{'0' * 64}"]


def test_removing_again_changes_nothing(data: Path) -> None:
    first = remove(data, "--owner", "ada")
    again = remove(data, "--owner", "ada")
    assert (again["works"], again["removed_before"]) == (first["works"], 4)
    assert again["removed"] == {"works": 4, "points": 0, "thumbnails": 0, "places": 0}


def test_a_run_that_was_killed_can_be_given_again(data: Path) -> None:
    """Killed after the tombstones and before the points went: the key still finds the work."""
    with open_catalogue(data, write=True) as catalogue:
        catalogue.add_tombstones(catalogue.removals(Selection(keys=frozenset({"05.png"}))).works, "removed")
    assert remove(data, "--key", "05.png")["removed"]["points"] == 1
    assert "05.png" not in keys(data)


def test_claims_and_the_work_s_name_in_the_ledger_stay(data: Path, pictures: Path) -> None:
    remove(data, "--key", "03.png")
    with open_catalogue(data) as catalogue:
        assert catalogue.counts().works == catalogue.counts().claims == 12
        assert catalogue.counts().sources == 11
        assert catalogue.known([sha(pictures, 3)])


def test_members_of_a_group_without_its_first_are_looked_at_anew(data: Path, pictures: Path) -> None:
    ids = [training_image_id(sha(pictures, number)) for number in (0, 3, 6)]
    with opened(data) as store:
        store.set_group(ids, str(ids[0]))
    remove(data, "--sha256", sha(pictures, 0))
    with opened(data) as store:
        assert set(store.ungrouped()) >= set(ids[1:])
        assert all(KEY_GROUP not in point.payload for point in store.fetch(ids))


def test_a_selection_that_means_nothing_is_refused(data: Path) -> None:
    refusals = {
        (): "nothing is named",
        ("--sha256", "abc"): "64 hexadecimal",
        ("--owner", "nobody"): "no owner is 'nobody'",
        ("--key", "nothing.png"): "no work is meant",
    }
    for words, message in refusals.items():
        done = CliRunner().invoke(gmvaluator, ["index", "remove", *words, "--data", str(data), "--yes"])
        assert done.exit_code
        assert message in str(done.exception) + done.output
    assert len(keys(data)) == 12


def canaries(pictures: Path, number: int) -> list[bytes]:
    return [f"{number:02}.png".encode(), f"Canary title {number:02}".encode()]


def traces(data: Path, needles: list[bytes]) -> set[str]:
    """Files of index, thumbnails and catalogue that hold one of `needles`."""
    wait_for_the_engine(data)
    files = [path for path in data.rglob("*") if path.is_file()]
    return {str(path.relative_to(data)) for path in files if any(needle in path.read_bytes() for needle in needles)}


def test_a_purge_leaves_no_byte(data: Path, pictures: Path) -> None:
    """Of key, title and vectors, in index, write-ahead logs, thumbnails and catalogue."""
    one = training_image_id(sha(pictures, 7))
    with opened(data) as store:
        (point,) = store.fetch([one])
    needles = [*canaries(pictures, 7), point.recall.tobytes(), point.perceptual[0].tobytes()]
    assert {path.split("/")[0] for path in traces(data, needles)} == {"index", "catalogue.sqlite"}
    removed = remove(data, "--key", "07.png", "--purge")
    assert removed["purged"] == {"collections": ["works"], "works": 1, "log_emptied": True}
    assert traces(data, needles) == set()
    assert not list((data / "thumbnails").rglob(f"{one}*"))
    assert len(keys(data)) == 11
    with open_catalogue(data) as catalogue:
        assert catalogue.unpurged() == []
        assert catalogue.tombstoned([sha(pictures, 7)])


def test_what_was_removed_before_can_be_purged_later(data: Path, pictures: Path) -> None:
    remove(data, "--key", "07.png")
    assert traces(data, canaries(pictures, 7))
    assert index("remove", "--purge", "--data", data)["purged"]["works"] == 1
    assert traces(data, canaries(pictures, 7)) == set()
    assert add(pictures, data)["removed"] == 1


def test_a_purge_ends_a_removal_that_was_killed(data: Path, pictures: Path) -> None:
    """Killed after the tombstones: the point was still found, thumbnail and place still there."""
    one = training_image_id(sha(pictures, 7))
    with open_catalogue(data, write=True) as catalogue:
        catalogue.add_tombstones(catalogue.removals(Selection(keys=frozenset({"07.png"}))).works, "removed")
    assert index("remove", "--purge", "--data", data)["purged"]["works"] == 1
    assert len(keys(data)) == 11
    assert traces(data, canaries(pictures, 7)) == set()
    assert not list((data / "thumbnails").rglob(f"{one}*"))
    with open_catalogue(data) as catalogue:
        assert (catalogue.counts().sources, catalogue.unpurged()) == (11, [])


def test_settings_are_kept_shown_and_changed_by_a_rebuild(data: Path, pictures: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    words = ("--data", other, "--profile", "stub", "--hnsw-m", 24, "--hnsw-ef-construct", 64, "--in-memory")
    index("add", pictures, *words)
    kept = index("info", "--data", other)["metadata"]["settings"]
    assert (kept["hnsw_m"], kept["hnsw_ef_construct"], kept["on_disk"]) == (24, 64, False)
    rebuilt = index("rebuild", "--data", other, "--quantisation", "scalar", "--hnsw-m", 32)
    assert rebuilt["metadata"]["quantisation"]["name"] == "scalar"
    assert (rebuilt["metadata"]["settings"]["hnsw_m"], rebuilt["metadata"]["settings"]["on_disk"]) == (32, False)
    refused = CliRunner().invoke(
        gmvaluator, ["index", "add", str(pictures), "--data", str(tmp_path / "third"), "--profile", "stub",
                     "--replication-factor", "2"]
    )  # fmt: skip
    assert refused.exit_code
    assert "use a Qdrant server" in str(refused.exception) + refused.output


def test_an_index_below_the_floor_fails_and_growth_is_measured_again(
    data: Path, pictures: Path, tmp_path: Path
) -> None:
    words = ["index", "verify", "--k", "3", "--queries", "10", "--data", str(data)]
    assert CliRunner().invoke(gmvaluator, words).exit_code == 0
    np.save(tmp_path / "noise.npy", np.zeros((3, 4)))
    refused = CliRunner().invoke(gmvaluator, [*words, "--held-out", str(tmp_path / "noise.npy")])
    assert "query 0" in str(refused.exception) + refused.output
    with opened(data) as store:
        measured = {**(store.metadata().measured or {}), "recall_at_3": 0.5}
        store.record(store.metadata().with_search(store.metadata().search, measured))
    for number in range(3):
        Image.new("RGB", (24, 16), (9, 9, 200 + number)).save(pictures / f"late-{number}.png")
    with (pictures / "manifest.csv").open("a") as manifest:
        manifest.writelines(f"late-{number}.png,Late,ada\n" for number in range(3))
    grown = add(pictures, data)
    assert (grown["points"], grown["collection"]["metadata"]["measured"]["points"]) == (3, 15)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("gmvaluator.index.verify._recalls", lambda _, queries, *__: np.full(len(queries), 0.5))
        assert CliRunner().invoke(gmvaluator, words).exit_code == 1
        assert CliRunner().invoke(gmvaluator, [*words, "--floor", "0.4"]).exit_code == 0
