"""A decoder that runs in threads of this process."""

import asyncio
from concurrent.futures import Executor

from attributor.workers.decoder_pool import Decoded, EncodedImage
from gmvaluator.ids import sha256_hex
from gmvaluator.images import decode_image, thumbnail
from gmvaluator.ledger.records import ImageFacts
from gmvaluator.ports import Prepare


class ThreadDecoder:
    """Implements `Decoder` in threads: Pillow releases the interpreter's lock while it decodes."""

    def __init__(self, executor: Executor, prepare: Prepare) -> None:
        """prepare: `Models.prepare`."""
        self._executor = executor
        self._prepare = prepare

    async def decode(self, image: EncodedImage, with_thumbnail: bool = False, parts: bool = True) -> Decoded:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, decode_here, image.data, self._prepare, with_thumbnail, parts)


def decode_here(data: bytes, prepare: Prepare, with_thumbnail: bool = False, parts: bool = True) -> Decoded:
    """Decode in the calling thread. Raises InvalidImage or ImageTooLarge."""
    image = decode_image(data)
    facts = ImageFacts(sha256_hex(data), image.width, image.height, len(data))
    return Decoded(facts, prepare(image, parts), thumbnail(image) if with_thumbnail else None)
