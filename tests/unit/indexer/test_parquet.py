"""Tests of Parquet with images: every type that holds bytes is read, and damage costs the rest of one shard."""

import io
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from gmvaluator.errors import InvalidManifest, Unavailable
from indexer.sources.item import Item, SourceItem, Unreadable
from indexer.sources.opening import open_source

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
VIEWS = pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())])


def items_of(location: Path | str) -> list[Item]:
    return [item for shard in open_source(str(location)).shards for item in shard.start(0)]


def contents(items: list[Item]) -> list[bytes]:
    return [item.read() for item in items if isinstance(item, SourceItem)]


def reasons(items: list[Item]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Unreadable)]


def hf(*images: bytes) -> list[dict[str, object]]:
    return [{"bytes": image, "path": "same.png"} for image in images]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"aa", b"bb", b"aa"], pa.binary()).dictionary_encode(),
        pa.array([b"aa", b"bb", b"aa"], pa.large_binary()),
        pa.array([b"aa", b"bb", b"aa"], pa.binary_view()),
        pa.array([b"aa", b"bb", b"aa"], pa.binary(2)),
        pa.array(hf(b"aa", b"bb", b"aa"), STRUCT),
        pa.array(hf(b"aa", b"bb", b"aa"), VIEWS),
    ],
    ids=lambda column: str(column.type)[:30],
)
def test_images_of_any_type_of_bytes_are_read(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"image": column, "owner_id": ["x", "y", "z"]}), tmp_path / "0.parquet")
    items = items_of(tmp_path)
    assert contents(items) == [b"aa", b"bb", b"aa"]
    assert [item.owner for item in items if isinstance(item, SourceItem)] == ["x", "y", "z"]


@pytest.mark.parametrize("kind", [pa.list_(STRUCT), pa.large_list(STRUCT)], ids=str)
def test_lists_of_images_are_an_item_each(tmp_path: Path, kind: pa.DataType) -> None:
    rows = [hf(b"a", b"b"), [], hf(b"c"), None]
    pq.write_table(pa.table({"images": pa.array(rows, kind), "owner_id": list("wxyz")}), tmp_path / "0.parquet")
    (shard,) = open_source(str(tmp_path)).shards
    items = list(shard.start(0))
    assert [item.key for item in items] == [f"0.parquet/{key}" for key in ("0", "0/1", "1", "2", "3")]
    assert contents(items) == [b"a", b"b", b"c"]
    assert reasons(items) == [f"row {row} of 0.parquet holds no image" for row in (1, 3)]
    for start in range(6):
        assert [item.key for item in shard.start(start)] == [item.key for item in items[start:]]


def test_a_column_that_cannot_be_read_is_named_with_its_type(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["aGVsbG8="], "title": ["a"]}), tmp_path / "0.parquet")
    with pytest.raises(InvalidManifest, match=r"without a column of images that can be read \(image: string\)"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("status", ["published", "success", "", None, 200, "failed"])
@pytest.mark.parametrize("more", [{}, {"original_width": [1]}, {"error_message": [None]}])
def test_a_status_of_another_workflow_changes_nothing(
    tmp_path: Path, status: object, more: dict[str, list[object]]
) -> None:
    table = pa.table({"image": pa.array(hf(b"a"), STRUCT), "status": [status], **more})
    pq.write_table(table, tmp_path / "0.parquet")
    assert contents(items_of(tmp_path)) == [b"a"]


def test_an_error_message_of_another_workflow_is_no_opt_out(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array(hf(b"a"), STRUCT), "error_message": ["disallowed characters in the title"]})
    pq.write_table(table, tmp_path / "0.parquet")
    (item,) = items_of(tmp_path)
    assert isinstance(item, SourceItem)
    assert item.opt_out == ""


def shard_bytes(first: int, damaged: bool = False) -> bytes:
    """Return a file of three row groups of two rows; if damaged, the second group cannot be read."""
    buffer = io.BytesIO()
    images = [b"image %d" % (first + number) * 200 for number in range(6)]
    table = pa.table({"image": pa.array(hf(*images), STRUCT)})
    pq.write_table(table, buffer, row_group_size=2, use_dictionary=False)
    data = bytearray(buffer.getvalue())
    if damaged:
        group = pq.ParquetFile(buffer).metadata.row_group(1).column(0)
        data[group.data_page_offset : group.data_page_offset + 300] = bytes(300)
    return bytes(data)


def test_damage_of_one_shard_is_a_reject_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "0.parquet").write_bytes(shard_bytes(0, damaged=True))
    (tmp_path / "1.parquet").write_bytes(shard_bytes(10))
    (tmp_path / "2.parquet").write_bytes(shard_bytes(20)[:900])
    (tmp_path / "3.parquet").write_bytes(b"")
    items = items_of(tmp_path)
    assert len(contents(items)) == 2 + 6
    assert [item.key for item in items if isinstance(item, Unreadable)] == [
        f"{number}.parquet (the rest of the shard)" for number in (0, 2, 3)
    ]
    assert all("damaged" in reason for reason in reasons(items))


def test_a_source_of_which_no_shard_can_be_read_is_refused(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InvalidManifest, match="cannot be read as Parquet"):
        open_source(str(tmp_path))


def test_damage_of_a_manifest_is_a_reject(tmp_path: Path) -> None:
    pq.write_table(pa.table({"file_name": [f"{n}.png" for n in range(6)]}), tmp_path / "m.parquet", row_group_size=2,
                   use_dictionary=False, compression="none")  # fmt: skip
    data = bytearray((tmp_path / "m.parquet").read_bytes())
    at = pq.ParquetFile(tmp_path / "m.parquet").metadata.row_group(1).column(0).data_page_offset
    data[at : at + 8] = b"\xff" * 8
    (tmp_path / "m.parquet").write_bytes(data)
    items = items_of(tmp_path / "m.parquet")
    assert [type(item) for item in items] == [SourceItem, SourceItem, Unreadable]


class Broken(MemoryFileSystem):  # type: ignore[misc]
    """A file system whose files cannot be read any more after some reads."""

    protocol = "broken"
    cachable = False
    left = 1_000

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("broken://", "memory://")))

    def _open(self, *args: object, **options: object) -> object:
        file = super()._open(*args, **options)
        read = file.read

        def counted(*size: int) -> object:
            Broken.left -= 1
            if Broken.left < 0:
                raise TimeoutError("no answer")
            return read(*size)

        return _Counted(file, counted)


class _Counted:
    def __init__(self, file: object, read: object) -> None:
        self._file, self.read = file, read

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def __enter__(self) -> "_Counted":
        return self

    def __exit__(self, *error: object) -> None:
        return None


@pytest.mark.parametrize("damaged", [False, True])
def test_an_outage_in_the_middle_is_none_of_the_files(monkeypatch: pytest.MonkeyPatch, damaged: bool) -> None:
    fsspec.register_implementation("broken", Broken, clobber=True)
    MemoryFileSystem().pipe("/shards/0.parquet", shard_bytes(0, damaged))
    MemoryFileSystem().pipe("/shards/1.parquet", shard_bytes(10))
    source = open_source("broken://shards")
    if damaged:
        assert len(contents([item for shard in source.shards for item in shard.start(0)])) == 8
    else:
        rows = source.shards[0].start(0)
        next(rows)
        monkeypatch.setattr(Broken, "left", 0)
        with pytest.raises(Unavailable, match="give the same command again"):
            list(rows)
    MemoryFileSystem.store.clear()
