"""Attribute what a diffusers pipeline makes, without making it wait.

    pip install gmvaluator diffusers
    python examples/diffusers/attribute_callback.py --server 127.0.0.1:50051 --model-version sdxl-2026-01 "a red fox"

An `Attributed` pipeline is called as the pipeline is. Each image goes to the outbox, which keeps it on disk and
delivers it from threads of its own; the caller gets the pipeline's result at once.
"""

from __future__ import annotations

import argparse
import io
import uuid
from pathlib import Path
from typing import Any

from gmvaluator.client.outbox import Outbox


class Attributed:
    """A pipeline whose images are attributed. `outbox` outlives it; `generation_ids` names its last call's images."""

    def __init__(self, pipeline: Any, outbox: Outbox, model_version: str) -> None:
        self._pipeline = pipeline
        self._outbox = outbox
        self._model_version = model_version
        self.generation_ids: list[str] = []

    def __call__(self, *words: Any, **options: Any) -> Any:
        """The pipeline's own answer; its `images` are PIL images."""
        result = self._pipeline(*words, **options)
        call = uuid.uuid4().hex
        self.generation_ids = [f"{self._model_version}/{call}/{number}" for number in range(len(result.images))]
        for generation_id, image in zip(self.generation_ids, result.images, strict=True):
            self._outbox.submit(png(image), generation_id, self._model_version)
        return result


def png(image: Any) -> bytes:
    """A PIL image as a file."""
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
    asked = parser.parse_args()
    from diffusers import DiffusionPipeline  # only here, so that the rest runs without it

    with Outbox(asked.outbox, asked.server) as outbox:
        generate = Attributed(DiffusionPipeline.from_pretrained(asked.model), outbox, asked.model_version)
        generate(asked.prompt).images[0].save("image.png")
        delivered = outbox.flush(60)
        print("attributed" if delivered else f"{outbox.waiting} wait in {asked.outbox}: run again to deliver them")


if __name__ == "__main__":
    main()
