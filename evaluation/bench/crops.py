"""`gmvaluator bench crops`: how far MANIQA's quality by fewer crops lies from its quality by all 20.

Fewer crops are a prefix of one order (`gmvaluator.models.preprocessing`), so one pass over 20 gives every number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.make_examples import read_recipes
from gmvaluator.images import decode_image
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.device import Runtime, usable_device
from gmvaluator.models.known_models import parts_of
from gmvaluator.models.maniqa import load
from gmvaluator.models.preprocessing import Pixels, crops_preparer, order_taken
from gmvaluator.models.profiles import profile_identity
from gmvaluator.models.specs import Part
from gmvaluator.models.weight_files import ModelsFolder
from gmvaluator.samples import sample_folder

COUNTS = (1, 2, 3, 5, 8, 12, 16)
Values = npt.NDArray[np.float64]


def bench_crops(choice: ProfileChoice, device: str, images: int) -> dict[str, Any]:
    """Figures: by number of crops the mean and the largest deviation of the quality, over generated images.

    choice: profile paper with a MANIQA; its weights decide what the figures mean. Raises what loading raises.
    """
    part, folder = parts_of(choice).quality, ModelsFolder(choice.models)
    runtime = Runtime(usable_device(device), profile_identity(choice).precision)
    hashes = {file.role: folder.recorded_sha256(file) for file in part.files}
    model = load(part, folder, hashes, runtime)
    return deviations([model.crop_sums(pixels) for pixels in _inputs(part, images)])


def deviations(sums: Sequence[Values]) -> dict[str, Any]:
    """sums: of each image (20, 2), weighted quality and weight of each crop in pyiqa's order."""
    figures: dict[str, Any] = {"images": len(sums), "quality_mean": float(np.mean([_quality(one) for one in sums]))}
    for count in COUNTS:
        chosen = sorted(order_taken()[:count])
        moved = np.abs([_quality(one[chosen]) - _quality(one) for one in sums])
        figures |= {
            f"crops_{count}_deviation_mean": float(moved.mean()),
            f"crops_{count}_deviation_max": float(moved.max()),
        }
    return figures


def _quality(sums: Values) -> float:
    weighted, weight = sums.sum(axis=0)
    return float(np.clip(weighted / (weight + 1e-8), 0, 1))


def _inputs(part: Part, images: int) -> list[Pixels]:
    folder = sample_folder("generated")
    prepare = crops_preparer(part)
    return [prepare(decode_image((folder / one.file_name).read_bytes())) for one in read_recipes(folder)[:images]]
