"""The thumbnail store: files by the image's hash, bounds in bytes and age, and errors that fail no call."""

import io
import os
import stat
import time
from pathlib import Path

import pytest
from PIL import Image

from attributor.ops.thumbnails import ThumbnailStore
from gmvaluator.images import THUMBNAIL_PX, generated_path
from gmvaluator.ports import Prepared
from tests.support.decoders import decode_here
from tests.support.waiting import until

HASHES = [f"{number:064x}" for number in range(10)]
DAY_S = 86_400.0


def kept(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*/*.webp"))


def test_a_thumbnail_is_named_by_its_hash_and_readable_by_its_user_alone(tmp_path: Path) -> None:
    store = ThumbnailStore(tmp_path / "generated", 1_000, DAY_S)
    store.start()
    store.keep(HASHES[0], b"x" * 10)
    store.keep(HASHES[0], b"y" * 10)
    store.close()
    path = generated_path(tmp_path / "generated", HASHES[0])
    assert path.read_bytes() == b"y" * 10
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "generated").stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_expired_files_are_deleted_and_then_the_oldest(tmp_path: Path) -> None:
    store = ThumbnailStore(tmp_path, max_bytes=50, max_age_s=DAY_S)
    now = time.time()
    for number, sha256 in enumerate(HASHES):
        store.keep(sha256, b"x" * 10)
        age_s = 2 * DAY_S if number < 2 else 100 - number
        os.utime(generated_path(tmp_path, sha256), (now - age_s, now - age_s))
    assert store.sweep(now) == 6
    assert kept(tmp_path) == HASHES[6:]
    assert store.sweep(now) == 0
    assert store.sweep(now + 2 * DAY_S) == 4


def test_a_folder_above_its_limit_is_swept_in_the_background(tmp_path: Path) -> None:
    store = ThumbnailStore(tmp_path, max_bytes=45, max_age_s=DAY_S)
    store.start()
    for sha256 in HASHES:
        store.keep(sha256, b"x" * 10)
    until(lambda: len(kept(tmp_path)) == 4)
    store.close()


def test_a_failed_write_is_reported_and_raises_nothing(tmp_path: Path) -> None:
    problems: list[str] = []
    (tmp_path / HASHES[0][:2]).write_text("in the way")
    ThumbnailStore(tmp_path, 1_000, DAY_S, problems.append).keep(HASHES[0], b"x")
    assert HASHES[0] in problems[0]


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_a_thumbnail_carries_no_metadata(file_format: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret prompt"
    buffer = io.BytesIO()
    Image.effect_noise((600, 400), 60).convert("RGB").save(buffer, file_format, exif=exif)
    assert b"a secret prompt" in buffer.getvalue()
    made = decode_here(buffer.getvalue(), lambda *_: Prepared.shared(None), with_thumbnail=True).thumbnail  # type: ignore[arg-type]
    assert made is not None
    assert b"secret" not in made
    with Image.open(io.BytesIO(made)) as image:
        assert (image.format, max(image.size), dict(image.getexif())) == ("WEBP", THUMBNAIL_PX, {})
        assert "icc_profile" not in image.info
