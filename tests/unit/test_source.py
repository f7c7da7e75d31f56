"""Where training images come from: every row is counted, and nothing outside the folder is opened."""

import os
from pathlib import Path

import pytest

from gmvaluator.errors import InvalidManifest, MissingData
from indexer.source import SourceItem, Unreadable, open_source


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def manifest(folder: Path, text: str) -> Path:
    (folder / "manifest.csv").write_text(text, encoding="utf-8")
    return folder


def items(folder: Path) -> list[SourceItem | Unreadable]:
    return list(open_source(folder))


def test_a_folder_lists_its_files_in_order_without_hidden_ones(tmp_path: Path) -> None:
    touched(tmp_path, "b.png", "a/c.png", ".hidden.png", ".git/x.png")
    source = open_source(tmp_path)
    assert [item.key for item in source] == ["a/c.png", "b.png"]
    assert len(source) == 2


def test_a_manifest_names_owners_titles_and_labels(tmp_path: Path) -> None:
    touched(tmp_path, "a.png")
    row = (
        "file_name,key,title,keywords,category,owner_id,author,license\na.png,k,A frog,green;frog,animals,ann,Ann,CC0\n"
    )
    (item,) = items(manifest(tmp_path, row))
    assert item == SourceItem(
        "k", tmp_path / "a.png", None, "A frog", ("animals", "green", "frog"), "ann", "Ann", "CC0"
    )


@pytest.mark.parametrize("column", ["file_name", "filename", "path", "image"])
def test_known_aliases_of_columns_are_read(tmp_path: Path, column: str) -> None:
    touched(tmp_path, "a.png")
    (item,) = items(manifest(tmp_path, f"{column},caption,artist\na.png,A frog,Ann\n"))
    assert isinstance(item, SourceItem)
    assert (item.key, item.title, item.owner_name) == ("a.png", "A frog", "Ann")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../secret.png", "link.png", "a\0b"])
def test_paths_that_lead_outside_are_unreadable(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "images"
    touched(tmp_path, "secret.png")
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (item,) = items(manifest(folder, f'file_name\n"{path}"\n'))
    assert isinstance(item, Unreadable)
    assert "outside" in item.reason


def test_links_out_of_a_plain_folder_are_unreadable(tmp_path: Path) -> None:
    touched(tmp_path, "secret.png", "images/a.png")
    (tmp_path / "images/link.png").symlink_to(tmp_path / "secret.png")
    assert [type(item) for item in items(tmp_path / "images")] == [SourceItem, Unreadable]


def test_names_that_are_not_utf8_are_unreadable_and_can_be_printed(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    (item,) = items(tmp_path)
    assert isinstance(item, Unreadable)
    assert item.key.encode() == b"caf\\xe9.png"


def test_links_in_a_circle_are_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (item,) = items(manifest(tmp_path, "file_name\na.png\n"))
    assert isinstance(item, Unreadable)


def test_a_row_without_a_file_is_unreadable(tmp_path: Path) -> None:
    (item,) = items(manifest(tmp_path, "file_name,key\n,k\n"))
    assert item == Unreadable("k", "row 2 of manifest.csv names no file")


@pytest.mark.parametrize("text", ["", "title\nx\n", "file_name\n" + "x" * 200_000 + "\n", 'file_name\n"unclosed\n'])
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidManifest):
        items(manifest(tmp_path, text))


def test_a_binary_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(b"\xff\xfe\0\0file_name")
    with pytest.raises(InvalidManifest):
        open_source(tmp_path)


def test_a_missing_folder_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingData):
        open_source(tmp_path / "nowhere")
