"""Write a larger set of training images: the sample and augmentations of its images.

    python -m evaluation.images.augmented --out ./augmented --count 20000

For checks of the index at a size the sample does not have: `gmvaluator index add`, then `gmvaluator index verify`.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from evaluation.images.recipes import KINDS, STRENGTHS, derive, source_count
from gmvaluator.files import atomic_file
from gmvaluator.images import decode_image
from gmvaluator.samples import sample_folder

SEED = 20_000
REPORT_EVERY = 1_000


def augment(number: int, sources: Sequence[Image.Image]) -> Image.Image:
    """Make augmentation `number`: a random recipe and strength on the next source, and a second one to compose."""
    rng = random.Random(f"{SEED}:{number}")  # noqa: S311 - seeded pictures, no secrets
    kind, strength = rng.choice(KINDS), rng.choice(STRENGTHS)
    chosen = [sources[number % len(sources)], *(rng.choice(sources) for _ in range(source_count(kind) - 1))]
    return derive(kind, strength, chosen, rng)


def write_all(out: Path, count: int) -> None:
    """Write `count` WebP images to `out`: those of the sample of clip art, then augmentations of them.

    Existing files are kept, so that an interrupted run can be repeated.
    """
    paths = sorted((sample_folder("openclipart") / "images").glob("*.webp"))
    sources = [decode_image(path.read_bytes()) for path in paths]
    out.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        target = out / f"{number:06}.webp"
        if target.exists():
            continue
        image = sources[number] if number < len(sources) else augment(number, sources)
        with atomic_file(target, durable=False) as file:  # the same seed makes the same image again
            image.save(file, "WEBP", quality=80, method=0)
        if number % REPORT_EVERY == 0:
            print(f"{number:,}/{count:,}", file=sys.stderr)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--count", type=int, default=20_000, help="images in all")
    arguments = parser.parse_args()
    write_all(arguments.out, arguments.count)


if __name__ == "__main__":
    main()
