"""Measures a profile's quality on the sample: are clean images above distorted copies, and is recolouring harmless?

    python -m evaluation.quality --json > docs/results/lite-quality.json

Every work by a test artist is compared with one copy of each kind and strength of `evaluation.training.distortions`.
None of these artists took part in training.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import Image

from evaluation.make_examples import read_works
from evaluation.split import TEST_OWNERS
from evaluation.training.distortions import KINDS, MAX_STRENGTH, distort
from evaluation.training.variants import recolour
from gmvaluator.images import decode_image
from gmvaluator.models.process_setup import prepare_process
from gmvaluator.models.profiles import load_models
from gmvaluator.ports import Float32Array, Models
from gmvaluator.report import report
from gmvaluator.samples import sample_folder

STRENGTHS = tuple(range(1, MAX_STRENGTH + 1))
COPIES = tuple(product(KINDS, STRENGTHS))
SMALL_CHANGE = 0.1


def qualities_of(models: Models, image: Image.Image, rng: random.Random) -> Float32Array:
    """(2 + copies,): the work itself, the work recoloured, and its copies in the order of `COPIES`."""
    copies = [distort(kind, strength, image, rng) for kind, strength in COPIES]
    return models.quality([models.prepare(one) for one in (image, recolour(image, rng), *copies)])


def rank_correlation(qualities: Float32Array) -> npt.NDArray[np.float64]:
    """Spearman's rank correlation of each row with falling order: (N, C) to (N,), 1 if every step is lower.

    ρ = 1 - 6 Σ d² / (C (C² - 1)), with d the difference of ranks.
    """
    count = qualities.shape[1]
    falling = np.argsort(np.argsort(-qualities, axis=1), axis=1)
    squares = ((falling - np.arange(count)) ** 2).sum(axis=1)
    correlation: npt.NDArray[np.float64] = 1 - 6 * squares / (count * (count**2 - 1))
    return correlation


def figures_of(qualities: Float32Array) -> dict[str, float]:
    """Flat figures of (N, 2 + copies) qualities; shares in [0, 1]."""
    clean, recoloured = qualities[:, 0], qualities[:, 1]
    copies = qualities[:, 2:].reshape(len(qualities), len(KINDS), len(STRENGTHS))
    figures: dict[str, float] = {"works": len(qualities), **_clean_figures(clean)}
    for number, kind in enumerate(KINDS):
        figures |= _kind_figures(kind, clean, copies[:, number])
    change = np.abs(recoloured - clean)
    return figures | {
        "recoloured_median_change": _rounded(np.median(change)),
        f"recoloured_change_below_{SMALL_CHANGE}_share": _rounded((change < SMALL_CHANGE).mean()),
        "recoloured_above_distorted_share": _rounded((recoloured[:, None, None] > copies).mean()),
    }


def _clean_figures(clean: Float32Array) -> dict[str, float]:
    points = {"p05": 5, "p50": 50, "p95": 95}
    return {f"clean_quality_{name}": _rounded(np.percentile(clean, point)) for name, point in points.items()}


def _kind_figures(kind: str, clean: Float32Array, copies: Float32Array) -> dict[str, float]:
    above = clean[:, None] > copies
    figures = {f"{kind}_clean_above_share": _rounded(above.mean())}
    for number, strength in enumerate(STRENGTHS):
        figures[f"{kind}_{strength}_clean_above_share"] = _rounded(above[:, number].mean())
        figures[f"{kind}_{strength}_quality_p50"] = _rounded(np.median(copies[:, number]))
    ordered = rank_correlation(np.concatenate([clean[:, None], copies], axis=1))
    return figures | {f"{kind}_rank_correlation": _rounded(ordered.mean())}


def _rounded(value: float | np.floating) -> float:
    return round(float(value), 4)


def measure(profile: str, every: int) -> dict[str, float]:
    """Figures of a profile over every `every`-th work of the sample's test artists."""
    models = load_models(profile)
    folder = sample_folder("openclipart")
    works = [work for work in read_works(folder).values() if work.owner_id in TEST_OWNERS]
    rows = [
        qualities_of(
            models,
            decode_image((folder / work.file_name).read_bytes()),
            random.Random(work.key),  # noqa: S311 - must be reproducible
        )
        for work in works[::every]
    ]
    return figures_of(np.stack(rows))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evaluation.quality", description=__doc__)
    parser.add_argument("--profile", default="lite")
    parser.add_argument("--every", type=int, default=1, help="take every Nth work only (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    prepare_process()
    figures = measure(options.profile, options.every)
    command = f"python -m evaluation.quality --profile {options.profile} --every {options.every} --json"
    lines = [f"{name}: {value}" for name, value in figures.items()]
    print(json.dumps(report(figures, command), indent=2) if options.json else "\n".join(lines))  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
