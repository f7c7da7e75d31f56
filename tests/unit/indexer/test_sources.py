"""Tests of sources: every row is counted, and nothing outside the root is opened."""

import io
import json
import os
import re
import tarfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from braceexpand import braceexpand
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from gmvaluator.errors import InvalidInput, InvalidManifest, MissingData, Unavailable
from gmvaluator.ids import sha256_hex
from gmvaluator.images import MAX_IMAGE_BYTES
from indexer.opt_outs import NO_OPT_OUTS, OptOutList
from indexer.reading import ItemReader, ReadImage
from indexer.report import OPT_OUT, LeftOut
from indexer.sources import opening, roots
from indexer.sources.item import Item, Source, SourceItem, Unreadable
from indexer.sources.opening import open_source
from indexer.sources.parquet import FILES_AT_ONCE, parquet_rows


def png(colour: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (colour, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def manifest(folder: Path, text: str, name: str = "manifest.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def all_of(source: Source) -> Iterator[Item]:
    for shard in source.shards:
        yield from shard.start(0)


def read_items(location: Path | str) -> list[Item]:
    return list(all_of(open_source(str(location))))


def readable(items: list[Item]) -> list[SourceItem]:
    return [item for item in items if isinstance(item, SourceItem)]


def reader(opt_outs: OptOutList = NO_OPT_OUTS) -> ItemReader:
    return ItemReader("art", lambda image: [], opt_outs)


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


# Folders


def test_a_folder_lists_its_files_in_order_without_hidden_ones(tmp_path: Path) -> None:
    touched(tmp_path, "b.png", "a/c.png", ".hidden.png", ".git/x.png")
    source = open_source(str(tmp_path))
    assert [item.key for item in all_of(source)] == ["a/c.png", "b.png"]
    assert source.rows == 2


def test_links_out_of_a_folder_are_unreadable(tmp_path: Path) -> None:
    touched(tmp_path, "secret.png", "images/a.png")
    (tmp_path / "images/link.png").symlink_to(tmp_path / "secret.png")
    assert [type(item) for item in read_items(tmp_path / "images")] == [SourceItem, Unreadable]


def test_links_to_folders_are_not_followed_and_are_counted(tmp_path: Path) -> None:
    touched(tmp_path, "elsewhere/a.png", "images/b.png")
    (tmp_path / "images/linked").symlink_to(tmp_path / "elsewhere")
    items = read_items(tmp_path / "images")
    assert {item.key: type(item) for item in items} == {"b.png": SourceItem, "linked": Unreadable}


def test_names_that_are_not_utf8_are_unreadable_and_can_be_printed(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    (item,) = read_items(tmp_path)
    assert isinstance(item, Unreadable)
    assert item.key.encode() == b"caf\\xe9.png"


def test_what_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    for name in ("nowhere", "nowhere.csv", "nowhere.tar", "{0..3}.tar"):
        with pytest.raises(MissingData):
            open_source(str(tmp_path / name))


def test_any_fsspec_url_is_a_source() -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe({"/pictures/b.png": png(), "/pictures/sub/a.png": png(1), "/pictures/.hidden": b"x"})
    items = readable(read_items("memory://pictures"))
    assert [item.key for item in items] == ["b.png", "sub/a.png"]
    assert items[0].read() == png()
    assert items[0].uri == "memory://pictures/b.png"


@pytest.mark.parametrize("location", ["pipe:cat x", "-", "nosuch://bucket/x", "shards/{0..3.tar"])
def test_locations_that_cannot_be_used_are_refused(location: str) -> None:
    with pytest.raises((InvalidInput, MissingData)):
        open_source(location)


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..999999999999}.tar",
        "{0..999}/{0..1000}.tar",
        "{a,b,{0..1000000}}.tar",
        "{a..z}{a..z}{a..z}{a..z}{a,b,c}",
        "{0.." + "9" * 5_000 + "}.tar",
    ],
)
def test_a_pattern_of_too_many_names_is_refused_before_it_is_expanded(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "braceexpand", lambda _: pytest.fail("the names were made"))
    with pytest.raises(InvalidInput, match="names over 250,000 files: index them in parts"):
        open_source(pattern)


def test_a_typo_in_a_large_pattern_is_told_after_one_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def is_file(_: roots.LocalRoot, name: str) -> bool:
        looks.append(name)
        return False

    monkeypatch.setattr(roots.LocalRoot, "is_file", is_file)
    with pytest.raises(MissingData, match=r"the first of 200,000 files, .*/000000\.tar, does not exist"):
        open_source(str(tmp_path / "{000000..199999}.tar"))
    assert looks == ["000000.tar"]


@pytest.mark.parametrize(
    "name", ["shots {raw", "set {a,b}", "{{cookiecutter.name}}", "[x] #1?", "{0..9}", "x.parquet", "x.tar", "x.csv"]
)
def test_a_folder_that_is_there_is_that_folder(tmp_path: Path, name: str) -> None:
    touched(tmp_path / name, "w.png")
    assert [item.key for item in read_items(tmp_path / name)] == ["w.png"]
    assert [item.key for item in read_items(f"file://{tmp_path / name}")] == ["w.png"]


@pytest.mark.parametrize("name", ["{a,b}.tar", "{0..9}.tar", "x{.tar"])
def test_a_file_that_is_there_is_that_file(tmp_path: Path, name: str) -> None:
    tar(tmp_path / name, {"0.png": png()})
    assert [item.key for item in read_items(tmp_path / name)] == [f"{name}/0"]


def test_what_is_no_regular_file_is_a_reject(tmp_path: Path) -> None:
    """Opening a named pipe that nobody writes to waits for ever."""
    os.mkfifo(tmp_path / "stream.png")
    touched(tmp_path, "w.png")
    left_out = [reader().read(item) for item in readable(read_items(tmp_path))]
    assert [row.reason for row in left_out if isinstance(row, LeftOut)] == [
        "the file cannot be read: it is no regular file"
    ]
    for name in ("shard.tar", "rows.csv", "0.parquet"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(MissingData):
            open_source(str(tmp_path / name))


def test_a_file_that_the_user_names_may_be_a_link(tmp_path: Path) -> None:
    """The cache of Hugging Face links each file to its blob."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/0a1b"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    pq.write_table(pa.table({"image": [png(1)]}), blobs / "a")
    tar(blobs / "b", {"0.png": png(2)})
    manifest(blobs, "file_name\nw.png\n", "c")
    for blob, name in (("a", "0.parquet"), ("b", "0.tar"), ("c", "rows.csv")):
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    touched(snapshot, "w.png")
    (snapshot / "outside.png").symlink_to("../../blobs/a")
    assert [item.read() for item in readable(read_items(snapshot / "0.parquet"))] == [png(1)]
    assert [item.read() for item in readable(read_items(snapshot / "0.tar"))] == [png(2)]
    assert len(read_items(snapshot / "{0.parquet,0.parquet}")) == 2
    for source in (open_source(str(snapshot / "rows.csv")), open_source(str(snapshot), str(snapshot / "rows.csv"))):
        assert [item.key for item in all_of(source)] == ["w.png"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_manifest_finds_a_file_in_either_normal_form(tmp_path: Path, form: Literal["NFC", "NFD"]) -> None:
    touched(tmp_path, unicodedata.normalize(form, "zoë.png"))
    manifest(
        tmp_path, f"file_name\n{unicodedata.normalize('NFC', 'zoë.png')}\n{unicodedata.normalize('NFD', 'zoë.png')}\n"
    )
    assert [item.read() for item in readable(read_items(tmp_path))] == [b"x", b"x"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "quoted.csv"])
def test_a_manifest_may_begin_with_a_byte_order_mark(tmp_path: Path, name: str) -> None:
    texts = {
        "rows.jsonl": '{"file_name": "a.png", "owner_id": "ada"}\r\n{"file_name": "b.png", "owner_id": "ben"}\r\n',
        "rows.csv": "file_name,owner_id\r\na.png,ada\r\nb.png,ben\r\n",
        "quoted.csv": '"file_name","owner_id"\r\n"a.png","ada"\r\n"b.png","ben"\r\n',
    }
    (tmp_path / name).write_bytes(texts[name].encode("utf-8-sig"))
    items = readable(read_items(tmp_path / name))
    assert [(item.key, item.owner) for item in items] == [("a.png", "ada"), ("b.png", "ben")]
    (shard,) = open_source(str(tmp_path / name)).shards
    assert [item.key for item in shard.start(1)] == ["b.png"]
    (tmp_path / name).write_bytes(texts[name].encode("utf-16"))
    with pytest.raises(InvalidManifest, match="UTF-16 or UTF-32: save it as UTF-8"):
        open_source(str(tmp_path / name))


@pytest.mark.parametrize(
    "pattern",
    ["a.tar", "{00..11}.tar", "{9..1..3}.tar", "{a,b,c{1..3}}{x,y}.tar", "{a..e}.tar", "{}{a}.tar", "{-1..1}"],
)
def test_names_of_a_pattern_are_counted_as_they_are_expanded(pattern: str) -> None:
    assert opening.count_names(pattern) == len(list(braceexpand(pattern)))


# Manifests


def test_a_manifest_names_owners_titles_and_labels(tmp_path: Path) -> None:
    touched(tmp_path, "a.png")
    header = "file_name,key,title,keywords,category,owner_id,author,license,url\n"
    (item,) = read_items(manifest(tmp_path, header + "a.png,k,A frog,green;frog,animals,ann,Ann,CC0,https://x/a\n"))
    assert isinstance(item, SourceItem)
    assert (item.key, item.title, item.labels) == ("k", "A frog", ("animals", "green", "frog"))
    assert (item.owner, item.owner_name, item.license, item.url) == ("ann", "Ann", "CC0", "https://x/a")
    assert item.uri == (tmp_path / "a.png").as_uri()
    assert item.read() == b"x"


@pytest.mark.parametrize("column", ["file_name", "filename", "path", "image", "image_path", "FILE_NAME"])
def test_known_aliases_of_columns_are_read(tmp_path: Path, column: str) -> None:
    touched(tmp_path, "a.png")
    (item,) = read_items(manifest(tmp_path, f"{column},TEXT,artist\na.png,A frog,Ann\n"))
    assert isinstance(item, SourceItem)
    assert (item.key, item.title, item.owner_name) == ("a.png", "A frog", "Ann")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../secret.png", "link.png", "a\0b"])
def test_paths_that_lead_outside_are_unreadable(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "images"
    touched(tmp_path, "secret.png")
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (item,) = read_items(manifest(folder, f'file_name\n"{path}"\n'))
    assert isinstance(item, Unreadable)
    assert "outside" in item.reason


def test_links_in_a_circle_are_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (item,) = read_items(manifest(tmp_path, "file_name\na.png\n"))
    assert isinstance(item, Unreadable)


def test_a_row_without_a_file_is_unreadable(tmp_path: Path) -> None:
    (item,) = read_items(manifest(tmp_path, "file_name,key\n,k\n"))
    assert item == Unreadable("k", "row 2 of manifest.csv names no file")


@pytest.mark.parametrize("row", ["a.png,A frog, green,ann", "a.png,A frog"])
def test_a_row_with_cells_too_many_or_too_few_is_unreadable(tmp_path: Path, row: str) -> None:
    """Its cells would stand under other columns' names."""
    touched(tmp_path, "a.png")
    items = read_items(manifest(tmp_path, f"file_name,title,owner_id\n{row}\na.png,A frog,ann\n"))
    assert [type(item) for item in items] == [Unreadable, SourceItem]
    assert isinstance(items[0], Unreadable)
    assert "row 2" in items[0].reason
    assert "3 are expected" in items[0].reason


def test_a_column_that_first_appears_late_in_json_lines_counts(tmp_path: Path) -> None:
    touched(tmp_path, "a.png")
    late = {"key": "late", "path": "a.png", "owner_id": "ann", "sha256": "AB" * 32}
    lines = [{"path": "a.png"}] * 100 + [late]
    manifest(tmp_path, "".join(json.dumps(line) + "\n" for line in lines), "rows.jsonl")
    items = readable(read_items(tmp_path / "rows.jsonl"))
    assert len(items) == 101
    assert (items[100].key, items[100].owner, items[100].sha256) == ("late", "ann", "ab" * 32)


def test_a_field_that_is_too_long_costs_its_own_row_only(tmp_path: Path) -> None:
    touched(tmp_path, "a.png")
    items = read_items(manifest(tmp_path, f"file_name,title\na.png,{'x' * 20_000}\na.png,short\n"))
    assert [type(item) for item in items] == [Unreadable, SourceItem]


@pytest.mark.parametrize("text", ["", "title\nx\n", 'file_name\n"unclosed\n', "url\nhttps://x/a.png\n"])
def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidManifest):
        open_source(str(manifest(tmp_path, text)))


def test_a_binary_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_bytes(b"\xff\xfe\0\0file_name")
    with pytest.raises(InvalidManifest):
        open_source(str(tmp_path))


def test_rows_may_hold_line_breaks_and_are_found_from_any_position(tmp_path: Path) -> None:
    rows = "".join(f'{number}.png,"line\nbreak {number}"\n' for number in range(30))
    (shard,) = open_source(str(manifest(tmp_path, "file_name,title\n" + rows))).shards
    assert shard.rows == 30
    assert [item.key for item in shard.start(27)] == ["27.png", "28.png", "29.png"]


def test_long_manifests_are_cut_into_shards_that_begin_where_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.sources.manifest.BLOCK_ROWS", 7)
    names = [f"{number}.png" for number in range(30)]
    manifest(tmp_path, "file_name,title\n" + "".join(f'{name},"a\nb"\n\n' for name in names))
    manifest(tmp_path, "".join(json.dumps({"path": name}) + "\n" for name in names), "rows.jsonl")
    for location in (tmp_path, tmp_path / "rows.jsonl"):
        source = open_source(str(location))
        assert [shard.rows for shard in source.shards] == [7, 7, 7, 7, 2]
        assert [item.key for item in all_of(source)] == names


def test_json_lines_that_are_no_objects_are_unreadable(tmp_path: Path) -> None:
    touched(tmp_path, "a.png")
    manifest(tmp_path, '{"path": "a.png", "tags": ["x", "y"]}\nnonsense\n[1]\n' + "[" * 5000 + "\n", "rows.jsonl")
    items = read_items(tmp_path / "rows.jsonl")
    assert [type(item) for item in items] == [SourceItem, Unreadable, Unreadable, Unreadable]
    assert readable(items)[0].labels == ("x", "y")
    assert "no JSON object" in str(items[1])


def test_a_json_line_that_is_not_utf8_is_one_reject(tmp_path: Path) -> None:
    touched(tmp_path, "a.png", "b.png")
    lines = [b'{"path": "a.png"}', b'{"path": "a.png", "owner": "Andr\xe9"}', b'{"path": "b.png"}']
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    assert [type(item) for item in read_items(tmp_path / "rows.jsonl")] == [SourceItem, Unreadable, SourceItem]


def test_half_a_character_can_be_stored(tmp_path: Path) -> None:
    touched(tmp_path, "a.png")
    manifest(tmp_path, '{"path": "a.png", "title": "a frog \\ud83d"}', "rows.jsonl")
    (item,) = readable(read_items(tmp_path / "rows.jsonl"))
    assert item.title == "a frog \N{REPLACEMENT CHARACTER}"


def test_a_parquet_manifest_names_files(tmp_path: Path) -> None:
    touched(tmp_path, "a.png", "b.png")
    pq.write_table(pa.table({"path": ["a.png", "b.png"], "caption": ["A", None]}), tmp_path / "rows.parquet")
    assert [item.title for item in readable(read_items(tmp_path / "rows.parquet"))] == ["A", ""]


# Shards of images


def test_every_tar_of_a_folder_is_read_with_its_metadata(tmp_path: Path) -> None:
    tar(tmp_path / "00.tar", {"0.jpg": png(), "0.json": b'{"author": "Ann", "license": "CC0"}', "0.txt": b" a frog "})
    tar(tmp_path / "01.tar", {"1.png": png(1), "1.cls": b"frogs"})
    items = readable(read_items(tmp_path))
    assert [(item.key, item.title, item.labels) for item in items] == [
        ("00.tar/0", "a frog", ()),
        ("01.tar/1", "", ("frogs",)),
    ]
    assert items[0].owner_name == "Ann"
    assert items[0].read() == png()


def test_braces_name_shards_and_all_must_be_there(tmp_path: Path) -> None:
    for number in range(3):
        tar(tmp_path / f"{number:03}.tar", {f"{number}.png": png(number)})
    assert [item.key for item in read_items(tmp_path / "{000..002}.tar")] == ["000.tar/0", "001.tar/1", "002.tar/2"]
    with pytest.raises(MissingData, match="1 of 4"):
        open_source(str(tmp_path / "{000..003}.tar"))


def test_other_files_of_a_folder_are_another_source(tmp_path: Path) -> None:
    for number in range(4):
        tar(tmp_path / f"{number}.tar", {"0.png": png(number)})
    patterns = ("{0..1}.tar", "{2..3}.tar", "{0..1}.tar")
    first, second, again = (open_source(str(tmp_path / pattern)).name for pattern in patterns)
    assert first == again != second


def test_samples_without_a_usable_image_are_unreadable_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.sources.tar.MAX_BYTES", 50_000)
    members = {
        "0.txt": b"no image",
        "1.jpg": bytes(50_001),
        "2.png": png(),
        "2.json": b"{",
        "3.png": png(),
    }
    tar(tmp_path / "0.tar", members)
    assert [type(item) for item in read_items(tmp_path)] == [Unreadable, Unreadable, Unreadable, SourceItem]


@pytest.mark.parametrize("kept", [100, 1024, 1500, 2100])
def test_the_rest_of_a_truncated_tar_is_one_reject(tmp_path: Path, kept: int) -> None:
    path = tar(tmp_path / "0.tar", {f"{number}.png": png(number) for number in range(4)})
    path.write_bytes(path.read_bytes()[:kept])
    items = read_items(tmp_path)
    assert isinstance(items[-1], Unreadable)
    assert "damaged" in items[-1].reason
    assert len(readable(items)) == kept // 1024


def test_the_rest_of_a_tar_from_a_damaged_header_on_is_one_reject(tmp_path: Path) -> None:
    """A header and an image take two blocks here; the third member's header has one bit flipped."""
    path = tar(tmp_path / "0.tar", {f"{number}.png": png(number) for number in range(4)})
    data = bytearray(path.read_bytes())
    data[2 * 1024 + 110] ^= 1
    path.write_bytes(data)
    items = read_items(tmp_path)
    assert [type(item) for item in items] == [SourceItem, SourceItem, Unreadable]
    assert isinstance(items[2], Unreadable)
    assert "damaged" in items[2].reason


def test_a_header_that_would_fill_the_memory_ends_a_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar.gz", "w:gz") as archive:
        for name, comment in (("0.png", "short"), ("1.png", "x" * 2 * 1024 * 1024)):
            entry = tarfile.TarInfo(name)
            entry.size, entry.pax_headers = len(png()), {"comment": comment}
            archive.addfile(entry, io.BytesIO(png()))
    items = read_items(tmp_path)
    assert [type(item) for item in items] == [SourceItem, Unreadable]
    assert isinstance(items[1], Unreadable)
    assert "a header has 2,0" in items[1].reason


def test_headers_without_end_end_a_tar(tmp_path: Path) -> None:
    """Each says how the member behind the next one is called."""
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 1
    (tmp_path / "0.tar").write_bytes((name.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 2_000)
    assert [type(item) for item in read_items(tmp_path)] == [Unreadable]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_image_files_next_to_shards_are_read_too(tmp_path: Path, kind: str) -> None:
    if kind == "tar":
        tar(tmp_path / "0.tar", {"0.png": png()})
    else:
        pq.write_table(pa.table({"image": [png()], "key": ["0"]}), tmp_path / "0.parquet")
    assert open_source(str(tmp_path)).loose_files == 0
    touched(tmp_path, "loose.png")
    touched(tmp_path, "sub/other.JPG")
    source = open_source(str(tmp_path))
    assert source.loose_files == 2
    assert [item.key for item in read_items(tmp_path)][1:] == ["loose.png", "sub/other.JPG"]


def test_a_folder_of_image_files_alone_has_none_next_to_shards(tmp_path: Path) -> None:
    touched(tmp_path, "loose.png")
    assert open_source(str(tmp_path)).loose_files == 0


@pytest.mark.parametrize("struct", [True, False])
def test_parquet_with_embedded_images_is_read_from_any_position(tmp_path: Path, struct: bool) -> None:
    images = [{"bytes": png(number), "path": "image.png"} if struct else png(number) for number in range(10)]
    table = pa.table({"image": images, "key": [f"k{number}" for number in range(10)]})
    pq.write_table(table, tmp_path / "0.parquet", row_group_size=3)
    (shard,) = open_source(str(tmp_path)).shards
    items = readable(list(shard.start(4)))
    assert shard.rows == 10
    assert [item.key for item in items] == [f"k{number}" for number in range(4, 10)]
    assert items[0].read() == png(4)


def test_rows_of_a_parquet_without_an_image_are_unreadable(tmp_path: Path) -> None:
    pq.write_table(pa.table({"jpg": [png(), None]}), tmp_path / "0.parquet")
    assert [type(item) for item in read_items(tmp_path / "0.parquet")] == [SourceItem, Unreadable]


@pytest.mark.parametrize("struct", [True, False])
def test_a_large_cell_that_every_row_shares_takes_the_memory_of_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, struct: bool
) -> None:
    """A dictionary has it once in the file; it is cut, so that the decoder refuses it as too large."""
    monkeypatch.setattr("indexer.sources.parquet.MAX_IMAGE_BYTES", 10_000)
    monkeypatch.setattr("indexer.sources.parquet.MAX_BYTES", 10_000)
    cell = os.urandom(400_000)
    rows = [{"bytes": cell, "path": "a.png"} if struct else cell] * 64
    pq.write_table(pa.table({"image": [*rows, None], "caption": ["A frog"] * 65}), tmp_path / "0.parquet")
    before, most, sizes = pa.total_allocated_bytes(), 0, []
    for item in all_of(open_source(str(tmp_path / "0.parquet"))):
        most = max(most, pa.total_allocated_bytes() - before)
        sizes.append(len(item.read()) if isinstance(item, SourceItem) else None)
    assert sizes == [10_001] * 64 + [None]
    assert most < 10 * len(cell)


def test_a_row_group_of_more_bytes_than_its_rows_may_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexer.sources.parquet.MAX_IMAGE_BYTES", 1_000)
    cells = [os.urandom(2_000) for _ in range(100)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "0.parquet", use_dictionary=False)
    (item,) = read_items(tmp_path / "0.parquet")
    assert isinstance(item, Unreadable)
    assert re.search(r"row group 0 of .* for 100 rows", item.reason)


def test_a_damaged_parquet_is_refused(tmp_path: Path) -> None:
    touched(tmp_path, "0.parquet")
    with pytest.raises(InvalidManifest):
        open_source(str(tmp_path))


def test_what_img2dataset_could_not_download_is_counted(tmp_path: Path) -> None:
    touched(tmp_path, "00000/000000000.jpg", "00000/000000000.json", "00000_stats.json")
    rows = {
        "key": ["000000000", "000000001", "000000002", "000000003"],
        "caption": ["a frog", "", "", ""],
        "url": ["u0", "u1", "u2", "u3"],
        "status": ["success", "failed_to_download", "failed_to_download", "success"],
        "error_message": [None, "HTTP Error 404", "Use of image disallowed by X-Robots-Tag directive", None],
    }
    pq.write_table(pa.table(rows), tmp_path / "00000.parquet")
    items = read_items(tmp_path)
    assert [type(item) for item in items] == [SourceItem, Unreadable, SourceItem, Unreadable]
    assert readable(items)[0].title == "a frog"
    assert "disallowed" in readable(items)[1].opt_out


def test_the_hash_of_a_download_is_not_that_of_the_file_made_of_it(tmp_path: Path) -> None:
    made, downloaded = png(), sha256_hex(b"what was downloaded")
    said = {"key": "000", "status": "success", "sha256": downloaded, "original_width": 900, "original_height": 800}
    tar(tmp_path / "00000.tar", {"000.jpg": made, "000.json": json.dumps(said).encode()})
    (item,) = readable(read_items(tmp_path))
    assert (item.sha256, item.download_sha256) == (None, downloaded)
    assert isinstance(reader().read(item), ReadImage)
    listed = OptOutList(sha256s=frozenset({downloaded}))
    left = reader(listed).read(item)
    assert isinstance(left, LeftOut)
    assert left.kind == OPT_OUT


def test_what_img2dataset_did_not_put_into_a_tar_is_counted(tmp_path: Path) -> None:
    touched(tmp_path, "00000_stats.json")
    tar(tmp_path / "00000.tar", {"000000000.jpg": png(), "000000000.json": b'{"key": "000000000"}'})
    rows = {
        "key": ["000000000", "000000001", "000000002"],
        "status": ["success", "failed_to_download", "failed_to_download"],
        "error_message": [None, "HTTP Error 404", "Use of image disallowed by X-Robots-Tag directive"],
    }
    pq.write_table(pa.table(rows), tmp_path / "00000.parquet")
    source = open_source(str(tmp_path))
    image, failed, disallowed = all_of(source)
    assert [item.key for item in (image, failed, disallowed)] == rows["key"]
    assert isinstance(failed, Unreadable)
    assert isinstance(disallowed, SourceItem)
    assert "disallowed" in disallowed.opt_out
    assert [item.key for item in source.shards[1].start(1)] == ["000000002"]


# Outages


class Failing(MemoryFileSystem):  # type: ignore[misc]
    """Cannot be reached for some calls."""

    protocol = "failing"
    cachable = False
    left = 0
    error: type[Exception] = TimeoutError

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("failing://", "memory://")))

    def _open(self, *args: object, **options: object) -> object:
        if Failing.left:
            Failing.left -= 1
            raise Failing.error("no answer")
        return super()._open(*args, **options)


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Failing]]:
    """A remote folder of one image, to be made unreachable."""
    fsspec.register_implementation("failing", Failing, clobber=True)
    monkeypatch.setattr(roots, "_PAUSES_S", (0.0, 0.0))
    MemoryFileSystem().pipe("/away/a.png", png())
    yield Failing
    Failing.left, Failing.error = 0, TimeoutError
    MemoryFileSystem.store.clear()


def test_a_short_outage_costs_no_image(away: type[Failing]) -> None:
    (item,) = readable(read_items("failing://away"))
    away.left = 2
    assert item.read() == png()


def test_a_long_outage_ends_the_run_and_rejects_nothing(away: type[Failing]) -> None:
    (item,) = readable(read_items("failing://away"))
    away.left = 3
    with pytest.raises(Unavailable, match="give the same command again"):
        reader().read(item)


def test_an_outage_makes_no_reject_of_the_rest_of_a_tar(away: type[Failing], tmp_path: Path) -> None:
    MemoryFileSystem().pipe("/tars/0.tar", tar(tmp_path / "0.tar", {"0.png": png()}).read_bytes())
    source = open_source("failing://tars")
    away.left = 1
    with pytest.raises(Unavailable, match="give the same command again"):
        list(all_of(source))
    assert [type(item) for item in all_of(source)] == [SourceItem]


def test_a_damaged_remote_parquet_is_no_outage(away: type[Failing]) -> None:
    MemoryFileSystem().pipe("/parquets/0.parquet", b"PAR1 and no more")
    with pytest.raises(InvalidManifest, match="cannot be read as Parquet"):
        open_source("failing://parquets")
    assert not away.left


def test_a_remote_file_that_is_missing_is_a_reject(away: type[Failing]) -> None:
    (item,) = readable(read_items("failing://away"))
    away.left, away.error = 3, FileNotFoundError
    assert isinstance(reader().read(item), LeftOut)


# Workers


def test_workers_together_have_every_shard_once(tmp_path: Path) -> None:
    for number in range(7):
        tar(tmp_path / f"{number}.tar", {f"{number}.png": png(number)})
    source = open_source(str(tmp_path))
    parts = [[item.key for item in all_of(source.partition(index, 3))] for index in range(3)]
    assert sorted(key for part in parts for key in part) == [f"{number}.tar/{number}" for number in range(7)]
    with pytest.raises(InvalidInput):
        source.partition(3, 3)


def test_rows_that_repeat_a_large_cell_are_read_a_few_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of a kilobyte: a dictionary stores the cell once."""
    cell = pa.array([bytes(MAX_IMAGE_BYTES)], pa.binary())
    table = pa.table({"image": pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), cell)})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    sizes: list[int] = []
    read = pq.ParquetFile.iter_batches

    def recorded(self: pq.ParquetFile, rows: int, **options: Any) -> Iterator[pa.RecordBatch]:
        sizes.append(rows)
        yield from read(self, rows, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", recorded)
    rows = parquet_rows(roots.open_root(str(tmp_path)), "a.parquet", 0)
    assert len(next(rows)["image"]) == MAX_IMAGE_BYTES
    assert sizes[0] <= FILES_AT_ONCE


def test_a_column_that_was_built_to_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.sources.parquet.MAX_IMAGE_BYTES", 100_000)
    table = pa.table({"image": pa.array([bytes(1_000_000), *[b""] * 60], pa.binary())})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(InvalidManifest, match="expands to"):
        next(parquet_rows(roots.open_root(str(tmp_path)), "a.parquet", 0))


@pytest.mark.parametrize(
    "location", ["github://", "reference://", "reference:///x", "simplecache::github://x", "zip://x"]
)
def test_an_address_that_leaves_something_out_is_named_in_one_line(location: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be opened") as caught:
        roots.open_root(location)
    assert str(caught.value).startswith(location)
    assert "\n" not in str(caught.value)
