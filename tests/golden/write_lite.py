"""Writer of `lite.npz`: the outputs of profile `lite` for three works.

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
    embeddings = models.embed([models.prepare(image) for image in images])
    assert embeddings.quality is not None
    np.savez(
        Path(__file__).parent / "lite.npz",
        profile=np.array(models.identity.hash),
        keys=np.array(KEYS),
        recall=embeddings.recall,
        perceptual=embeddings.perceptual,
        quality=embeddings.quality,
    )


if __name__ == "__main__":
    main()
