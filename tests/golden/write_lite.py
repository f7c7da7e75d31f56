"""Writes `lite.npz`: what profile `lite` makes of three works.

Run it after a refit: python -m tests.golden.write_lite
"""

from pathlib import Path

import numpy as np

from gmvaluator.images import decode_image
from gmvaluator.models.profiles import load_models
from gmvaluator.samples import sample_folder

KEYS = ("animals-birds-dove-symbol", "animals-bugs-ant", "computer-bb-back")


def main() -> None:
    models = load_models("lite")
    images = [decode_image((sample_folder("openclipart") / "images" / f"{key}.webp").read_bytes()) for key in KEYS]
    made = models.embed([models.prepare(image) for image in images])
    assert made.quality is not None
    np.savez(
        Path(__file__).parent / "lite.npz",
        profile=np.array(models.identity.hash),
        keys=np.array(KEYS),
        recall=made.recall,
        perceptual=made.perceptual,
        quality=made.quality,
    )


if __name__ == "__main__":
    main()
