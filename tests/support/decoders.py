"""A decoder that runs in threads of this process."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from PIL import Image

from attributor.workers.decoder_pool import Decoded, EncodedImage
from gmvaluator.ids import sha256_hex
from gmvaluator.images import decode_image, thumbnail
from gmvaluator.ledger.records import ImageFacts
from gmvaluator.ports import Prepared


class ThreadDecoder:
    """Implements `Decoder` in threads: Pillow releases the interpreter's lock while it decodes."""

    def __init__(self, executor: Executor, prepare: Callable[[Image.Image], Prepared]) -> None:
        """prepare: `Models.prepare`."""
        self._executor = executor
        self._prepare = prepare

    async def decode(self, image: EncodedImage, with_thumbnail: bool = False) -> Decoded:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, decode_here, image.data, self._prepare, with_thumbnail)


def decode_here(data: bytes, prepare: Callable[[Image.Image], Prepared], with_thumbnail: bool = False) -> Decoded:
    """Decode in the calling thread. Raises InvalidImage or ImageTooLarge."""
    image = decode_image(data)
    facts = ImageFacts(sha256_hex(data), image.width, image.height, len(data))
    return Decoded(facts, prepare(image), thumbnail(image) if with_thumbnail else None)
