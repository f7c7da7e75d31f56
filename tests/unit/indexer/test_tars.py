"""Tests of tar shards: whatever the order and company of a sample's members, each image and its metadata count."""

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pytest

from indexer.sources.item import Item, SourceItem, Unreadable
from indexer.sources.opening import open_source

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(82)

Members = Iterable[tuple[str, bytes]]


def packed(members: Members, form: int = tarfile.USTAR_FORMAT) -> bytes:
    """Return an archive of files, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            if form == tarfile.PAX_FORMAT:
                entry.pax_headers = {"LIBARCHIVE.xattr.com.apple.FinderInfo": "x", "mtime": "1700000000.123"}
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def items_of(folder: Path, data: bytes, name: str = "0.tar") -> list[Item]:
    """Return the items of a shard that is the only file of a folder."""
    (folder / name).write_bytes(data)
    return [item for shard in open_source(str(folder)).shards for item in shard.start(0)]


def indexed(items: Iterable[Item]) -> dict[str, tuple[str | None, str]]:
    """Return owner and opt-out of the images, by key."""
    return {item.key: (item.owner, item.opt_out) for item in items if isinstance(item, SourceItem)}


def reasons(items: Iterable[Item]) -> list[str]:
    """Return why items are rejected."""
    return [item.reason for item in items if isinstance(item, Unreadable)]


def sample(number: int, **more: object) -> list[tuple[str, bytes]]:
    """Return an image and its JSON, which names an owner."""
    described = json.dumps({"owner_id": f"artist-{number}", **more}).encode()
    return [(f"{number:03}.jpg", b"image %d" % number), (f"{number:03}.json", described)]


SAMPLES = [*sample(0), *sample(1, noai=True), *sample(2)]
EXPECTED = {"0.tar/000": ("artist-0", ""), "0.tar/001": ("artist-1", "noai = true"), "0.tar/002": ("artist-2", "")}

FOREIGN: dict[str, Callable[[str], list[tuple[str, bytes]]]] = {
    "AppleDouble": lambda name: [(f"._{name}", APPLE_DOUBLE)],
    "AppleDouble of a zip": lambda name: [(f"__MACOSX/._{name}", APPLE_DOUBLE)],
    "Finder": lambda _: [(".DS_Store", b"\0\0\0\1Bud1"), ("Icon\r", b"")],
    "Windows": lambda _: [("Thumbs.db", b"\xd0\xcf\x11\xe0"), ("desktop.ini", b"[.ShellClassInfo]")],
    "unpacked PAX headers": lambda name: [(f"PaxHeaders.4711/{name}", b"30 mtime=1700000000.123456789\n")],
    "Synology": lambda name: [(f"@eaDir/{name}/SYNOPHOTO_THUMB_M.jpg", b"a thumbnail")],
}


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("folder", ["", "./", "set/"])
def test_foreign_files_between_members_change_nothing(tmp_path: Path, foreign: str, folder: str) -> None:
    members: list[tuple[str, bytes]] = []
    for name, data in SAMPLES:
        members += [(folder + left, content) for left, content in FOREIGN[foreign](name)]
        members += [(folder + name, data)]
    items = items_of(tmp_path, packed(members))
    assert indexed(items) == {key.replace("/", f"/{folder}"): value for key, value in EXPECTED.items()}
    assert reasons(items) == []


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_headers_of_any_format_change_nothing(tmp_path: Path, form: int) -> None:
    folder = "a folder/" * 30
    items = items_of(tmp_path, packed([(folder + name, data) for name, data in SAMPLES], form))
    assert indexed(items) == {key.replace("/", f"/{folder}"): value for key, value in EXPECTED.items()}


@pytest.mark.parametrize("seed", range(8))
def test_members_count_in_any_order(tmp_path: Path, seed: int) -> None:
    members = [*SAMPLES, *[(f"{number:03}.txt", b"title %d" % number) for number in range(3)]]
    random.Random(seed).shuffle(members)
    items = items_of(tmp_path, packed(members))
    assert indexed(items) == EXPECTED
    assert [item.title for item in items if isinstance(item, SourceItem)] == [f"title {item.key[-1]}" for item in items]


def test_all_images_may_come_before_all_metadata(tmp_path: Path) -> None:
    items = items_of(tmp_path, packed(sorted(SAMPLES, key=lambda member: member[0][-4:])))
    assert indexed(items) == EXPECTED


def test_one_spelling_of_a_folder_is_as_good_as_another(tmp_path: Path) -> None:
    members = [("./" + name if name.endswith("json") else name, data) for name, data in SAMPLES]
    assert indexed(items_of(tmp_path, packed(members))) == EXPECTED


@pytest.mark.parametrize("name", ["000.jpg.json", "000.meta.json", "000.JSON"])
def test_metadata_may_have_the_name_of_the_file(tmp_path: Path, name: str) -> None:
    items = items_of(tmp_path, packed([("000.jpg", b"image"), (name, SAMPLES[3][1])]))
    assert indexed(items) == {"0.tar/000": ("artist-1", "noai = true")}


def test_any_document_of_a_sample_may_refuse_training(tmp_path: Path) -> None:
    members = [*sample(0), ("000.rights.json", b'{"noai": true}')]
    assert indexed(items_of(tmp_path, packed(members))) == {"0.tar/000": ("artist-0", "noai = true")}


def test_two_documents_of_one_name_that_differ_reject_the_image(tmp_path: Path) -> None:
    """`tar -r` appends a new version of a file, and which of them counts would be a guess."""
    items = items_of(tmp_path, packed([*sample(0), *sample(1), ("000.json", b'{"owner_id": "another"}')]))
    assert indexed(items) == {"0.tar/001": ("artist-1", "")}
    assert reasons(items) == ["the sample has two members 000.json that differ: keep one of them"]


def test_samples_that_are_complete_may_share_a_name(tmp_path: Path) -> None:
    """`tar -A` joins archives that each count from zero."""
    members = [*sample(0), *sample(1), *sample(0, title="second")]
    items = items_of(tmp_path, packed(members))
    assert [(item.key, item.title) for item in items if isinstance(item, SourceItem)] == [
        ("0.tar/000", ""),
        ("0.tar/001", ""),
        ("0.tar/000", "second"),
    ]


def test_links_and_hidden_images_are_rejects(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in (("0.jpg", tarfile.SYMTYPE), ("1.jpg", tarfile.LNKTYPE), ("2.jpg", tarfile.FIFOTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "elsewhere.jpg"
            archive.addfile(entry)
        for name in (".hidden.jpg", "._3.jpg"):
            entry = tarfile.TarInfo(name)
            entry.size = 5
            archive.addfile(entry, io.BytesIO(b"image"))
    items = items_of(tmp_path, buffer.getvalue())
    assert indexed(items) == {}
    assert [reason.partition(" is ")[2][:16] for reason in reasons(items)] == [
        "a link to elsewh", "a link to elsewh", "no regular file:", "hidden, and hidd", "hidden, and hidd",
    ]  # fmt: skip


def test_metadata_that_is_a_link_rejects_its_image(tmp_path: Path) -> None:
    buffer = io.BytesIO(packed([("000.jpg", b"image")]))
    with tarfile.open(fileobj=buffer, mode="a") as archive:
        entry = tarfile.TarInfo("000.json")
        entry.type, entry.linkname = tarfile.SYMTYPE, "all.json"
        archive.addfile(entry)
    assert reasons(items_of(tmp_path, buffer.getvalue())) == ["000.json is a link to all.json: store the file itself"]


def test_every_image_of_a_stem_is_an_item(tmp_path: Path) -> None:
    names = ["cat.jpg", "cat.png", "cat.webp", "cat.json", "dog.JPG", "dog.jpg", "emu.gif"]
    members = [(name, b'{"owner_id": "ada"}' if name.endswith("json") else name.encode()) for name in names]
    items = items_of(tmp_path, packed(members))
    assert indexed(items) == {
        "0.tar/cat": ("ada", ""),
        "0.tar/cat.png": ("ada", ""),
        "0.tar/cat.webp": ("ada", ""),
        "0.tar/dog": (None, ""),
        "0.tar/dog.jpg": (None, ""),
        "0.tar/emu": (None, ""),
    }
    assert [item.read() for item in items if isinstance(item, SourceItem)] == [
        name.encode() for name in names if not name.endswith("json")
    ]


@pytest.mark.parametrize("count", [6, 100])
def test_names_with_dots_are_an_item_each(tmp_path: Path, count: int) -> None:
    members = [(f"Screenshot 2026-01-05 at 10.{number}.png", b"image %d" % number) for number in range(count)]
    members += [("Screenshot 2026-01-05 at 10.3.json", b'{"owner_id": "ada"}')]
    items = items_of(tmp_path, packed(members))
    assert indexed(items) == {
        f"0.tar/Screenshot 2026-01-05 at 10.{number}": ("ada" if number == 3 else None, "") for number in range(count)
    }


def test_metadata_of_a_stem_counts_for_its_names_with_dots(tmp_path: Path) -> None:
    items = items_of(tmp_path, packed([("a.1.png", b"1"), ("a.2.png", b"2"), ("a.json", b'{"noai": 1}')]))
    assert indexed(items) == {"0.tar/a.1": (None, "noai = 1"), "0.tar/a.2": (None, "noai = 1")}


def test_images_that_come_with_the_image_of_a_sample_are_rejects(tmp_path: Path) -> None:
    items = items_of(tmp_path, packed([("000.jpg", b"image"), ("000.seg.png", b"mask"), ("000.npy", b"array")]))
    assert [item.key for item in items] == ["0.tar/000", "0.tar/000.seg.png"]
    assert reasons(items) == ["it belongs to the sample whose image is .jpg: to index it too, rename it"]


def test_a_sample_without_an_image_is_one_reject_that_lists_its_members(tmp_path: Path) -> None:
    items = items_of(tmp_path, packed([("000.txt", b"x"), ("1.jpg", b"image"), ("000.npy", b"x"), ("2.txt", b"x")]))
    assert [item.key for item in items] == ["000", "0.tar/1", "2"]
    assert reasons(items)[0].startswith("sample 000 of 0.tar has txt, but no image (")


ENCODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "plain": ("0.tar", bytes),
    "gzip": ("0.tar.gz", gzip.compress),
    "bzip2": ("0.tar", bz2.compress),
    "xz": ("0.tar", lzma.compress),
    "zstd": ("0.tar.zst", lambda data: bytes(pa.compress(data, codec="zstd", asbytes=True))),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_archives_that_were_joined_are_read_to_the_end(tmp_path: Path, encoding: str) -> None:
    name, compressed = ENCODINGS[encoding]
    whole = b"".join(compressed(packed(sample(number) + sample(7))) for number in range(3))
    items = items_of(tmp_path, whole, name)
    assert list(indexed(items)) == [
        f"{name}/{part}{stem}"
        for number, part in enumerate(("", "part 2/", "part 3/"))
        for stem in (f"00{number}", "007")
    ]
    assert reasons(items) == []


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name != "plain"])
def test_a_compression_may_have_several_members(tmp_path: Path, encoding: str) -> None:
    name, compressed = ENCODINGS[encoding]
    data = packed(SAMPLES)
    items = items_of(tmp_path, b"".join(compressed(data[at : at + 700]) for at in range(0, len(data), 700)), name)
    assert len(indexed(items)) == 3
    assert reasons(items) == []


@pytest.mark.parametrize("encoding", ["plain", "gzip", "zstd"])
@pytest.mark.parametrize("tail", [b"not a header", b"x" * 600])
def test_what_follows_an_archive_and_is_none_is_a_reject(tmp_path: Path, encoding: str, tail: bytes) -> None:
    name, compressed = ENCODINGS[encoding]
    items = items_of(tmp_path, compressed(packed(SAMPLES)) + tail, name)
    assert len(indexed(items)) == 3
    assert len(reasons(items)) == 1
    assert "damaged" in reasons(items)[0]


def test_an_image_whose_metadata_may_be_lost_is_a_reject(tmp_path: Path) -> None:
    data = packed(SAMPLES)
    items = items_of(tmp_path, data[: 5 * 1024 + 200])
    assert list(indexed(items)) == ["0.tar/000", "0.tar/001"]
    assert "metadata may be in the part that is lost" in reasons(items)[0]
    assert len(reasons(items)) == 2


def test_metadata_apart_from_its_images_is_kept_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.sources.tar_survey._MAX_KEPT_BYTES", 60)
    items = items_of(tmp_path, packed(sorted(SAMPLES, key=lambda member: member[0][-4:])))
    assert len(indexed(items)) == 1
    assert all("pack it again" in reason for reason in reasons(items))
    assert len(reasons(items)) == 2


def test_a_shard_is_read_on_from_any_position(tmp_path: Path) -> None:
    members = [*SAMPLES, ("a.1.png", b"1"), ("a.2.png", b"2"), ("b.jpg", b"3"), ("b.png", b"4"), ("000.txt", b"late")]
    (tmp_path / "0.tar").write_bytes(packed(members))
    (shard,) = open_source(str(tmp_path)).shards
    items = list(shard.start(0))
    assert len(items) == 7
    for start in range(8):
        assert [item.key for item in shard.start(start)] == [item.key for item in items[start:]]


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "1.png", "GNU.sparse.realsize": "9"},
        {"GNU.sparse.map": "0,abc", "GNU.sparse.size": "9"},
        {"size": "9" * 30},
    ],
    ids=["sparse file", "map of a sparse file", "size"],
)
def test_numbers_of_a_header_that_cannot_be_end_a_tar(tmp_path: Path, headers: dict[str, str]) -> None:
    """A reader may fail over the first two, and skip the third block by block for ever."""
    buffer, image = io.BytesIO(), bytes(9)
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for number, pax_headers in enumerate(({}, headers, {})):
            entry = tarfile.TarInfo(f"{number}.png")
            entry.size, entry.pax_headers = len(image), pax_headers
            archive.addfile(entry, io.BytesIO(image))
    items = items_of(tmp_path, buffer.getvalue())
    assert isinstance(items[0], SourceItem)
    assert all(isinstance(item, Unreadable) for item in items[1:])
    assert items[-1].key == "0.tar (the rest of the shard)"
