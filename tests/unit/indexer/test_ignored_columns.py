"""Columns whose names show that an owner or an opt-out was meant are named, and not ignored in silence."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.cli.add import nothing_usable
from indexer.job import Partition
from indexer.report import Counts
from indexer.sources.ignored_columns import IgnoredColumns
from indexer.sources.opening import open_source
from tests.unit.indexer.test_tars import packed


def noted(*names: str, owner_known: bool = False) -> dict[str, str]:
    ignored = IgnoredColumns()
    ignored.note(names, owner_known)
    return ignored.as_dict()


@pytest.mark.parametrize(
    "name",
    [
        "owners",
        "artist_name",
        "Owner ID",
        "owner-id",
        "ownerId",
        "artists",
        "rights_holder",
        "onwer_id",
        "author",
        "user_id",
    ],
)
def test_columns_that_look_like_an_owner_are_named(name: str) -> None:
    assert noted(name) == {name: "owner_id"}
    assert noted(name, owner_known=True) == {}


@pytest.mark.parametrize(
    ("name", "meant"),
    [("no_ai", "noai"), ("NoAI", ""), ("opt-out", "noai"), ("tdm reservation", "tdm_reservation"), ("noai", "")],
)
def test_columns_that_look_like_an_opt_out_are_named(name: str, meant: str) -> None:
    assert noted(name, owner_known=True) == ({name: meant} if meant else {})


@pytest.mark.parametrize("name", ["title", "path", "width", "authority", "homeowner-free", "userdata2"])
def test_other_columns_are_not(name: str) -> None:
    assert noted(name) == {}


def write_csv(folder: Path) -> None:
    (folder / "manifest.csv").write_text("file_name,owners\na.png,ada\n")


def write_jsonl(folder: Path) -> None:
    (folder / "rows.jsonl").write_text(json.dumps({"file_name": "a.png", "owners": "ada"}) + "\n")


def write_parquet(folder: Path) -> None:
    pq.write_table(pa.table({"image": [b"x"], "owners": ["ada"]}), folder / "0.parquet")


def write_tar(folder: Path) -> None:
    (folder / "0.tar").write_bytes(packed([("0.png", b"x"), ("0.json", b'{"owners": "ada"}')]))


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet, write_tar])
def test_every_kind_of_source_names_them(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    location = tmp_path / "rows.jsonl" if (tmp_path / "rows.jsonl").exists() else tmp_path
    source = open_source(str(location))
    for shard in source.shards:
        list(shard.start(0))
    assert source.ignored.as_dict() == {"owners": "owner_id"}
    assert source.partition(0, 1).ignored is source.ignored


@pytest.mark.parametrize(
    ("counts", "partitions", "expected"),
    [
        (Counts(), 1, True),
        (Counts(), 4, False),
        (Counts(read=3, rejects=3), 4, True),
        (Counts(read=3, rejects=2, opt_outs=1), 1, False),
        (Counts(read=3, duplicates=3), 1, False),
    ],
)
def test_a_run_that_can_use_nothing_is_known(counts: Counts, partitions: int, expected: bool) -> None:
    assert nothing_usable(counts, Partition(0, partitions)) is expected
