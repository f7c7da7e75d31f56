"""The decoder pool: the same pixels as in this process, and recovery from crashes, hangs and bombs."""

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from attributor.workers.decoder_pool import DecoderPool, EncodedImage
from attributor.workers.decoder_process import SLOT_BYTES, DecoderLate, DecoderProcess, Slot
from gmvaluator.errors import ImageTooLarge, InvalidImage, Unavailable
from gmvaluator.images import decode_image
from gmvaluator.ports import Prepared
from tests.support.decoders import decode_here


def as_array(image: Image.Image, parts: bool = True) -> Prepared:
    """Return the pixels, of a large image every hundredth; in place of `Models.prepare`."""
    step = 100 if image.width > 1_000 else 1
    return Prepared.shared(np.asarray(image, np.uint8)[::step, ::step].astype(np.float32))


def encoded(image: Image.Image, file_format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


GOOD = encoded(Image.effect_noise((33, 21), 60).convert("RGB"))


def shared_memory_kb() -> int:
    """Return the shared memory of this process: pages of slots that are in use."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssShmem"))


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    made = DecoderPool(as_array, 2, timeout_s=20)
    made.start()
    yield made
    made.close()


async def pixels(pool: DecoderPool, data: bytes = GOOD) -> bytes:
    return (await pool.decode(EncodedImage.parse(data))).inputs.recall.tobytes()


async def good(pool: DecoderPool) -> bool:
    return await pixels(pool) == as_array(decode_image(GOOD)).recall.tobytes()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
async def test_pixels_and_facts_are_those_of_decoding_here(pool: DecoderPool, file_format: str) -> None:
    data = encoded(Image.effect_noise((120, 80), 60).convert("RGB"), file_format)
    here = decode_here(data, as_array)
    there = await pool.decode(EncodedImage.parse(data))
    assert there.facts == here.facts
    assert np.array_equal(there.inputs.recall, here.inputs.recall)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
async def test_metadata_is_read_by_a_confined_process(pool: DecoderPool, file_format: str) -> None:
    """Pillow imports some modules only when it meets metadata, and a confined process reads few files."""
    image, exif = Image.effect_noise((40, 20), 60).convert("RGBA"), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.XPTitle] = "title".encode("utf-16-le")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    buffer = io.BytesIO()
    image.convert("RGB" if file_format == "JPEG" else "RGBA").save(buffer, file_format, exif=exif, icc_profile=profile)
    decoded = await pool.decode(EncodedImage.parse(buffer.getvalue()))
    assert (decoded.facts.width, decoded.facts.height) == (20, 40)
    assert np.array_equal(decoded.inputs.recall, decode_here(buffer.getvalue(), as_array).inputs.recall)


async def test_many_at_once_do_not_mix(pool: DecoderPool) -> None:
    sizes = [(width, height) for width in range(20, 60, 5) for height in (30, 31)]
    files = [encoded(Image.new("RGB", size, (size[0], size[1], 7))) for size in sizes]
    images = await asyncio.gather(*(pool.decode(EncodedImage.parse(data)) for data in files))
    assert [(decoded.facts.width, decoded.facts.height) for decoded in images] == sizes
    assert [tuple(decoded.inputs.recall[0, 0]) for decoded in images] == [(*size, 7) for size in sizes]


@pytest.mark.parametrize("data", [b"", b"GIF89a", GOOD[:-40], GOOD[:30]])
async def test_refusals_are_those_of_decoding_here(pool: DecoderPool, data: bytes) -> None:
    with pytest.raises(InvalidImage) as here:
        decode_image(data)
    with pytest.raises(InvalidImage) as there:
        await pixels(pool, data)
    assert type(there.value) is type(here.value)
    assert str(there.value) == str(here.value)
    assert await good(pool)


async def test_a_process_killed_from_outside_costs_no_image(pool: DecoderPool) -> None:
    before = pool.counts.restarts
    for process_id in pool.process_ids:
        os.kill(process_id, signal.SIGKILL)
    assert all(await asyncio.gather(*(good(pool) for _ in range(6))))
    assert pool.counts.restarts > before


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (signal.SIGKILL, Unavailable),
        (signal.SIGBUS, Unavailable),
        (signal.SIGSTOP, Unavailable),
        (signal.SIGSEGV, InvalidImage),
        (signal.SIGABRT, InvalidImage),
    ],
)
async def test_an_image_is_blamed_only_for_what_it_may_have_caused(
    number: signal.Signals, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = DecoderProcess.decode

    def decode(process: DecoderProcess, data: bytes, _: float) -> Image.Image:
        os.kill(process.process_id, number)
        return started(process, data, 0.5 if number == signal.SIGSTOP else 20.0)

    pool = DecoderPool(as_array, 1)
    pool.start()
    with monkeypatch.context() as patched:
        patched.setattr(DecoderProcess, "decode", decode)
        with pytest.raises(error):
            await pixels(pool)
    assert pool.counts.refused == (error is InvalidImage)
    assert await good(pool)
    pool.close()


def test_a_hanging_process_times_out() -> None:
    process = DecoderProcess()
    os.kill(process.process_id, signal.SIGSTOP)
    with pytest.raises(Exception, match="in time"):
        process.decode(GOOD, 0.2)
    process.close()


async def test_a_stopped_process_costs_no_image() -> None:
    pool = DecoderPool(as_array, 1, timeout_s=5)
    pool.start()
    os.kill(pool.process_ids[0], signal.SIGSTOP)
    assert await good(pool)
    assert pool.counts.restarts == 1
    pool.close()


async def test_an_image_that_hangs_twice_is_refused_and_the_next_one_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = DecoderPool(as_array, 1, timeout_s=20)
    pool.start()
    with monkeypatch.context() as patched:
        patched.setattr(DecoderProcess, "decode", late)
        with pytest.raises(InvalidImage, match="in time"):
            await pixels(pool)
    assert await good(pool)
    assert pool.counts.restarts == 2
    pool.close()


def late(*_: object) -> None:
    raise DecoderLate("decoding it did not end in time")


def test_an_image_that_needs_more_memory_than_the_limit_is_too_large() -> None:
    """A bomb that passes every check meets the memory limit of the process."""
    program = (
        "import attributor.workers.decoder_child as c, io; from PIL import Image;"
        "from gmvaluator.images import decode_image;"
        "from gmvaluator.errors import ImageTooLarge; b = io.BytesIO(); Image.new('RGB', (5000, 4000)).save(b, 'PNG');"
        "c.MEMORY_BYTES = 40_000_000; c.limit_resources()\n"
        "try: decode_image(b.getvalue())\nexcept ImageTooLarge as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "does not fit into memory" in done.stdout


async def test_after_a_large_image_the_memory_is_returned(pool: DecoderPool) -> None:
    data = encoded(Image.new("RGB", (5_000, 5_000), "teal"))
    assert (await pool.decode(EncodedImage.parse(data))).inputs.recall.shape == (50, 50, 3)
    with pytest.raises(ImageTooLarge):
        await pixels(pool, encoded(Image.new("1", (5_001, 5_000))))
    assert shared_memory_kb() < 20_000


def test_a_slot_cannot_be_shrunk_under_its_reader() -> None:
    slot = Slot.create()
    with pytest.raises(PermissionError):
        os.ftruncate(slot.descriptor, SLOT_BYTES - 1)
    slot.close()


def test_a_process_that_cannot_be_started_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(OSError, match="nowhere"):
            DecoderProcess()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
