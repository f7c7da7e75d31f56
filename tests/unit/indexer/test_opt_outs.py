"""Tests of the report of opt-outs: which works are still indexed, and which entries of the list named nothing."""

from collections.abc import Collection
from pathlib import Path
from typing import cast

import pytest

from gmvaluator.catalogue.reader import CatalogueReader
from gmvaluator.catalogue.removal import OptedOut, OptedOutWorks
from gmvaluator.catalogue.tombstones import Record
from indexer.opt_outs import OptOutList, opt_out_report
from indexer.report import OPT_OUT, REJECT, LeftOut, LeftOutFile

HASH = "ab" * 32
NONE = OptedOutWorks((), ())


class FakeCatalogue:
    """A catalogue that knows some names, and notes what it is asked."""

    def __init__(self, works: OptedOutWorks = NONE, known: Collection[str] = ()) -> None:
        self.works, self.known = works, set(known)
        self.asked = OptedOut()

    def opted_out_works(self, data_set: str, opted_out: OptedOut) -> OptedOutWorks:
        assert data_set == "set"
        self.asked = opted_out
        return self.works

    def known_names(self, data_set: str, names: Collection[str]) -> set[str]:
        assert data_set == "set"
        return self.known & set(names)

    def known_or_removed(self, sha256s: Collection[str]) -> set[str]:
        return self.known & set(sha256s)

    @property
    def reader(self) -> CatalogueReader:
        return cast(CatalogueReader, self)


@pytest.fixture
def left_out(tmp_path: Path) -> LeftOutFile:
    file = LeftOutFile(tmp_path / "left-out" / "set.jsonl")
    file.clear()
    return file


def opted_out(key: str, part: str, *listed: str, by_key_alone: bool = False) -> LeftOut:
    return LeftOut(key, "listed", OPT_OUT, f"file:///{part}", f"https://x/{part}", HASH, listed, by_key_alone)


def test_a_key_of_several_records_is_reported_and_opts_out_none_of_those_indexed(left_out: LeftOutFile) -> None:
    rows = [opted_out("0", "a", "0", by_key_alone=True), opted_out("0", "b", "0", by_key_alone=True)]
    rows += [opted_out("1", "a", "1", by_key_alone=True), opted_out("0", "c", "https://x/c")]
    left_out.write("shard", list(enumerate(rows)))
    catalogue = FakeCatalogue()
    opt_outs = OptOutList(names=frozenset({"0", "1", "https://x/c"}))
    report = opt_out_report(catalogue.reader, "set", opt_outs, left_out, complete=True)
    assert (report.shared_keys, report.still_indexed, report.unmatched) == (("0",), None, None)
    assert set(catalogue.asked.records) == {
        (Record("set", "1", "file:///a", "https://x/a"), HASH),
        (Record("set", "0", "file:///c", "https://x/c"), HASH),
    }


def test_what_was_read_or_is_known_is_not_called_unmatched(left_out: LeftOutFile, tmp_path: Path) -> None:
    """Rows of an earlier part of the run count, and a reject, too."""
    left_out.write(
        "shard", [(0, opted_out("0", "a", "a.png")), (1, LeftOut("1", "no image", REJECT, listed=("b.png",)))]
    )
    (tmp_path / "list").write_text(f"a.png\nb.png\nc.png\n{HASH}\nd.png\n")
    opt_outs = OptOutList.read(tmp_path / "list")
    catalogue = FakeCatalogue(known={"c.png", HASH})
    report = opt_out_report(catalogue.reader, "set", opt_outs, left_out, complete=True)
    assert report.unmatched is not None
    assert report.unmatched.first == ("line 5: d.png",)
    assert opt_out_report(catalogue.reader, "set", opt_outs, left_out, complete=False).unmatched is None


def test_a_key_that_only_indexed_records_share_is_reported_too(left_out: LeftOutFile) -> None:
    catalogue = FakeCatalogue(OptedOutWorks((), (), ("0",)), known={"0"})
    report = opt_out_report(catalogue.reader, "set", OptOutList(names=frozenset({"0"})), left_out, complete=True)
    assert (report.shared_keys, report.unmatched) == (("0",), None)


def test_works_that_are_still_indexed_are_listed_in_files(left_out: LeftOutFile) -> None:
    catalogue = FakeCatalogue(OptedOutWorks(("1" * 64,), ("2" * 64, "3" * 64)))
    still = opt_out_report(catalogue.reader, "set", OptOutList(), left_out, complete=True).still_indexed
    assert still is not None
    assert (still.works, still.file.read_text()) == (1, f"{'1' * 64}\n")
    assert (still.shared, still.shared_file.read_text()) == (2, f"{'2' * 64}\n{'3' * 64}\n")
    assert opt_out_report(FakeCatalogue().reader, "set", OptOutList(), left_out, complete=True).still_indexed is None
    assert not still.file.exists()
    assert not still.shared_file.exists()
