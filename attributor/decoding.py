"""From an image's bytes to the models' input, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gmvaluator.ids import sha256_hex
from gmvaluator.images import decode_image, thumbnail
from gmvaluator.ledger.records import ImageFacts
from gmvaluator.ports import Prepared

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image, ready for the models. thumbnail: a WebP made of its pixels, if one was asked for."""

    facts: ImageFacts
    inputs: Prepared
    thumbnail: bytes | None = None


class Decoder(Protocol):
    """Decodes an image; a slow or hostile one must not hold up the event loop."""

    async def decode(self, data: bytes, with_thumbnail: bool = False) -> Decoded:
        """Raises InvalidImage, or ImageTooLarge."""


class ThreadDecoder:
    """`Decoder` in threads; Pillow gives the interpreter's lock up while it works."""

    def __init__(self, executor: Executor, prepare: Callable[[Image.Image], Prepared]) -> None:
        """prepare: `Models.prepare`."""
        self._executor = executor
        self._prepare = prepare

    async def decode(self, data: bytes, with_thumbnail: bool = False) -> Decoded:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, decoded, data, self._prepare, with_thumbnail)


def decoded(data: bytes, prepare: Callable[[Image.Image], Prepared], with_thumbnail: bool = False) -> Decoded:
    """Decode in this thread. Raises InvalidImage, or ImageTooLarge."""
    image = decode_image(data)
    facts = ImageFacts(sha256_hex(data), image.width, image.height, len(data))
    return Decoded(facts, prepare(image), thumbnail(image) if with_thumbnail else None)
