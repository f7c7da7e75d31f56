"""`python -m tests.golden.write_paper FOLDER`: golden outputs of profile `paper` with the seeded weights of FOLDER.

FOLDER is what `tests.models.seeded` wrote. One file a model; every eighth number of a vector is enough to notice.
"""

import sys
from pathlib import Path

import numpy as np

from gmvaluator.images import decode_image
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.registry import load_models
from gmvaluator.ports import Models
from gmvaluator.samples import sample_folder

FOLDER = Path(__file__).parent
KEYS = ("animals-birds-dove-symbol", "animals-2-dead-frogs-lumen-desig-01")
STEP = 8


def outputs(models: Models) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """File name to numbers: what each model makes of two works of the sample."""
    paths = [sample_folder("openclipart") / "images" / f"{key}.webp" for key in KEYS]
    inputs = [models.prepare(decode_image(path.read_bytes())) for path in paths]
    embeddings = models.embed(inputs)
    return {
        "openclip": embeddings.recall[:, ::STEP],
        "dreamsim": embeddings.perceptual[:, 0, ::STEP],
        "maniqa": models.quality(inputs),
    }


def main() -> None:
    choice = ProfileChoice("paper", Path(sys.argv[1]), rerank="dreamsim:open_clip_vitb32", crops=1)
    for name, values in outputs(load_models(choice)).items():
        np.savez(FOLDER / f"{name}.npz", values=values)


if __name__ == "__main__":
    main()
