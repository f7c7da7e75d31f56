"""Tests of lists that name images: every line is understood, or refused by its number."""

from pathlib import Path

import pytest

from gmvaluator.errors import InvalidInput, MissingData
from indexer.name_list import SHOWN, Entry, parse_list, read_list, write_unmatched
from indexer.opt_outs import OptOutList

HASH = "ab" * 32


def opt_outs(tmp_path: Path, text: str, encoding: str = "utf-8") -> OptOutList:
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode(encoding))
    return OptOutList.read(path)


@pytest.mark.parametrize(
    "line",
    [
        HASH,
        HASH.upper(),
        f"{HASH}  w0.png",
        f"{HASH} *w0.png",
        f"\\{HASH}  a\\nb.png",
        f"SHA256 (w0.png) = {HASH}",
        f"SHA2-256(w0.png)= {HASH}".replace("SHA2", "SHA"),
        f"sha256:{HASH}",
        f"SHA-256: {HASH.upper()}",
        f"sha256={HASH}",
        f'"{HASH}"',
        f"'sha256:{HASH}'",
        f"{HASH},w0.png",
        f'"{HASH}","w0.png"',
        f"{HASH}\tw0.png",
        f"  {HASH}  ",
    ],
)
def test_hashes_are_understood_as_programs_print_them(tmp_path: Path, line: str) -> None:
    assert opt_outs(tmp_path, f"{line}\n").hashes(HASH) == (HASH,)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('"w2.png"', "w2.png"),
        ("'w2.png'", "w2.png"),
        ('"a ""b"".png"', 'a "b".png'),
        ("#1 fan art.png", "#1 fan art.png"),
        ("# 1.png", "# 1.png"),
        ("./sub/w2.png", "sub/w2.png"),
        ("sub\\w2.png", "sub/w2.png"),
        ("/data/w 2.png", "file:///data/w%202.png"),
        ("HTTPS://Example.com/A.png", "https://example.com/A.png"),
        ("https://example.com/A.png", "https://EXAMPLE.com/A.png"),
        ("cafe\N{COMBINING ACUTE ACCENT}.png", "caf\N{LATIN SMALL LETTER E WITH ACUTE}.png"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}.png", "cafe\N{COMBINING ACUTE ACCENT}.png"),
        ("key\N{LINE SEPARATOR}7", "key\N{LINE SEPARATOR}7"),
        (HASH, HASH),
    ],
)
def test_names_are_understood_as_people_write_them(tmp_path: Path, line: str, name: str) -> None:
    assert opt_outs(tmp_path, f"{line}\n").named("other", "", name)


@pytest.mark.parametrize(("encoding", "end"), [("utf-8", "\r\n"), ("utf-8-sig", "\n"), ("utf-8-sig", "\r")])
def test_files_of_any_editor_are_read(tmp_path: Path, encoding: str, end: str) -> None:
    listed = opt_outs(tmp_path, f"{HASH}{end}w1.png{end}{end}", encoding)
    assert listed.hashes(HASH)
    assert listed.named("w1.png")
    assert not listed.named("")


@pytest.mark.parametrize("line", ["sha256:abc", f"sha256:{HASH}0", "SHA256 (w0.png) = 12", f"sha256={HASH[1:]}"])
def test_a_hash_that_is_none_is_refused_by_line(tmp_path: Path, line: str) -> None:
    with pytest.raises(InvalidInput, match="line 2 of the list"):
        opt_outs(tmp_path, f"w1.png\n{line}\n")


def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingData):
        OptOutList.read(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="UTF-8"):
        opt_outs(tmp_path, "w1.png\n", "utf-16")
    with pytest.raises(InvalidInput, match="line 2"):
        opt_outs(tmp_path, f"a\n{'x' * 10_001}\n")


def test_every_entry_that_names_nothing_is_known_by_its_line(tmp_path: Path) -> None:
    listed = opt_outs(tmp_path, f"# a comment\n\nw1.png\n{HASH}  w2.png\nw3.png\n#w4.png\n")
    left = [(entry.line, entry.text) for entry in listed.unmatched({"w3.png"})]
    assert left == [(3, "w1.png"), (4, f"{HASH}  w2.png"), (6, "#w4.png")]
    assert not list(listed.unmatched({"w1.png", HASH, "w3.png", "#w4.png"}))


def test_the_first_entries_are_shown_and_a_file_has_all(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "x.unmatched.txt"
    unmatched = write_unmatched(file, (Entry(number, "a") for number in range(1, SHOWN + 51)))
    assert unmatched is not None
    assert (unmatched.entries, len(unmatched.first)) == (SHOWN + 50, SHOWN)
    assert file.read_text().splitlines()[-1] == f"line {SHOWN + 50}: a"
    assert write_unmatched(file, []) is None
    assert not file.exists()


def test_lines_are_numbered_as_editors_do(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("\n\n  a\x0cb \n")
    assert [(entry.line, entry.text) for entry in parse_list(read_list(tmp_path / "list"), "list")] == [(3, "a\x0cb")]
