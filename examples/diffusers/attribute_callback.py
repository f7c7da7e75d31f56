"""Attribute the images of a diffusers pipeline without delaying it.

    pip install gmvaluator diffusers
    python examples/diffusers/attribute_callback.py --server 127.0.0.1:50051 --model-version sdxl-2026-01 "a red fox"

An `Attributed` pipeline is called like the pipeline itself. Each image goes to the outbox, which stores it on disk and
delivers it in threads of its own; the caller gets the pipeline's result at once.
"""

from __future__ import annotations

import argparse
import io
import uuid
from pathlib import Path
from typing import Any

from gmvaluator.client.outbox import Outbox


class Attributed:
    """A pipeline whose images are attributed.

    The caller closes `outbox`. generation_ids: ids of the images of the last call.
    """

    def __init__(self, pipeline: Any, outbox: Outbox, model_version: str) -> None:
        self._pipeline = pipeline
        self._outbox = outbox
        self._model_version = model_version
        self.generation_ids: list[str] = []

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the pipeline, submit its images, and return its result; `images` of the result are PIL images."""
        result = self._pipeline(*arguments, **options)
        call = uuid.uuid4().hex
        self.generation_ids = [f"{self._model_version}/{call}/{number}" for number in range(len(result.images))]
        for generation_id, image in zip(self.generation_ids, result.images, strict=True):
            self._outbox.submit(png(image), generation_id, self._model_version)
        return result


def png(image: Any) -> bytes:
    """Encode a PIL image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate images and attribute them in the background.")
    parser.add_argument("prompt")
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--model-version", required=True, help="as the operator registered the generator")
    parser.add_argument("--model", default="stabilityai/stable-diffusion-xl-base-1.0")
    parser.add_argument("--outbox", type=Path, default=Path("outbox"))
    arguments = parser.parse_args()
    from diffusers import DiffusionPipeline  # Here, so that the rest can be imported without it.

    with Outbox(arguments.outbox, arguments.server) as outbox:
        generate = Attributed(DiffusionPipeline.from_pretrained(arguments.model), outbox, arguments.model_version)
        generate(arguments.prompt).images[0].save("image.png")
        delivered = outbox.flush(60)
        waiting = f"{outbox.waiting} images wait in {arguments.outbox}: run again to deliver them"
        print("attributed" if delivered else waiting)


if __name__ == "__main__":
    main()
