"""Fuzzing targets: functions of bytes that may raise only errors which a caller would get as a status."""

import io
from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf.message import DecodeError
from PIL import Image

from attributor.rpc.messages import image_request, preview_request
from gmvaluator.errors import InvalidImage, InvalidInput
from gmvaluator.images import MAX_IMAGE_PIXELS, decode_image
from gmvaluator.v1 import attribution_pb2 as v1

Target = Callable[[bytes], None]


def decode(data: bytes) -> None:
    """Decode; the result is an image within the limits, or InvalidImage."""
    try:
        image = decode_image(data)
    except InvalidImage:
        return
    assert image.mode == "RGB"
    assert 0 < image.width * image.height <= MAX_IMAGE_PIXELS


def request(data: bytes) -> None:
    """Parse and check; the result is a request, InvalidInput, or bytes that are no message."""
    checks: list[tuple[Any, Any]] = [(v1.AttributeRequest, image_request), (v1.PreviewRequest, preview_request)]
    for message, check in checks:
        try:
            checked = check(message.FromString(data), "local")
        except (DecodeError, InvalidInput):
            continue
        assert checked.model_version.isprintable()


TARGETS: dict[str, Target] = {"decode": decode, "request": request}


@cache
def seeds(target: str) -> tuple[bytes, ...]:
    """Return small files of every accepted kind, or messages of every shape."""
    return _images() if target == "decode" else _requests()


def _images() -> tuple[bytes, ...]:
    noise = Image.effect_noise((16, 12), 60)
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = noise.quantize(8)
    pictures: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (noise.convert("RGB"), "PNG", {}), (noise, "PNG", {"exif": exif}), (palette, "PNG", {"transparency": 1}),
        (noise.convert("RGBA"), "PNG", {}), (noise.convert("1"), "PNG", {}), (Image.new("I;16", (9, 9), 9), "PNG", {}),
        (noise.convert("RGB"), "JPEG", {"exif": exif}), (noise, "JPEG", {"progressive": True}),
        (noise.convert("CMYK"), "JPEG", {}), (noise.convert("RGB"), "WEBP", {}),
        (noise.convert("RGBA"), "WEBP", {"lossless": True, "exif": exif}),
        (noise.convert("RGB"), "WEBP", {"save_all": True, "append_images": [Image.new("RGB", (16, 12))]}),
        (noise.convert("RGB"), "PNG", {"save_all": True, "append_images": [Image.new("RGB", (16, 12))]}),
    ]  # fmt: skip
    files = []
    for image, file_format, options in pictures:
        buffer = io.BytesIO()
        image.save(buffer, file_format, **options)
        files.append(buffer.getvalue())
    return tuple(files)


def _requests() -> tuple[bytes, ...]:
    whole = v1.AttributeRequest(generation_id="job-1/image:2", model_version="demo", image=b"\x89PNG")
    whole.generated_at.seconds = 1_780_000_000
    preview = v1.PreviewRequest(model_version="demo", image=b"\x89PNG", policy="paper@1")
    embedded = v1.AttributeRequest(generation_id="job-1/image:3", model_version="demo")
    embedding = embedded.embedding
    embedding.profile_hash, embedding.image_sha256 = "a" * 64, bytes(32)
    embedding.width, embedding.height, embedding.size_bytes, embedding.quality = 512, 512, 9_000, 0.5
    embedding.recall.extend([0.5] * 4)
    embedding.perceptual.extend([0.5] * 4)
    return whole.SerializeToString(), embedded.SerializeToString(), preview.SerializeToString(), b""
