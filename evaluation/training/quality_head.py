"""Train the quality head, and measure a profile's quality on the sample.

Training rates clean images high and distorted copies lower with strength. The measurement asks whether clean images
rank above distorted copies, and whether recolouring is harmless:

    python -m evaluation.training.quality_head --json > docs/results/lite-quality.json

Every work by a test artist is compared with one copy of each kind and strength of `evaluation.images.distortions`. None
of these artists took part in training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from evaluation.images.distortions import KINDS, MAX_STRENGTH, distort
from evaluation.images.recipes import TEST_OWNERS
from evaluation.images.sample import read_works
from evaluation.images.works import Work, clean_variant, recolour
from gmvaluator.images import decode_image
from gmvaluator.models.process_setup import prepare_process
from gmvaluator.models.profiles import load_models
from gmvaluator.ports import Float32Array, Models
from gmvaluator.report import report
from gmvaluator.samples import sample_folder

HIDDEN_UNITS = 64
CLEAN_TARGET = 0.95
"""Target of a clean image; a distorted copy's falls linearly to 0.05 at strength 4."""

_EPOCHS = 60
_BATCH_WORKS = 64
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 1e-2
_DROPOUT = 0.3
_LOGITS_PER_QUALITY = 2.0
"""Required lead in logits of the better of two copies, per unit of difference between their targets."""

TextureOf = Callable[[Sequence[Image.Image]], Tensor]


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples for the quality head: copies of works with their target quality.

    texture (W, C, F): W works with C copies each. target (W, C) in [0, 1]. fit (W,): works used for training.
    """

    texture: Tensor
    target: Tensor
    fit: npt.NDArray[np.bool_]


def target_quality(strength: float) -> float:
    """Return the target for a copy distorted with this strength, 0 (clean) to 4."""
    return CLEAN_TARGET - strength * (CLEAN_TARGET - 0.05) / 4


def held_out(artist: str) -> bool:
    """Return whether an artist's works only monitor the training: about one in seven."""
    return hashlib.sha256(artist.encode()).digest()[0] < 36


def make_examples(works: Sequence[Work], copies: int, texture_of: TextureOf, seed: int) -> Examples:
    """Make `copies` clean variants of every work, each with one distorted copy of every kind."""
    texture, target = [], []
    for number, work in enumerate(works):
        images, targets = _copies(work.image, copies, random.Random(f"{seed}/{work.name}"))  # noqa: S311
        texture.append(texture_of(images))
        target.append(targets)
        if number % 100 == 0:
            print(f"{number} of {len(works)} works distorted", file=sys.stderr)  # noqa: T201
    fit = np.array([not held_out(work.artist) for work in works])
    return Examples(torch.stack(texture), torch.tensor(target), fit)


def _copies(image: Image.Image, copies: int, rng: random.Random) -> tuple[list[Image.Image], list[float]]:
    images, targets = [], []
    for _ in range(copies):
        clean = clean_variant(image, rng)
        images.append(clean)
        targets.append(CLEAN_TARGET)
        for kind in KINDS:
            strength = 0.4 + 3.6 * rng.random()
            images.append(distort(kind, strength, clean, rng))
            targets.append(target_quality(strength))
    return images, targets


class QualityHead(nn.Module):
    """Two layers on standardised texture; returns logits."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, HIDDEN_UNITS)
        self.output = nn.Linear(HIDDEN_UNITS, 1)

    def forward(self, standard: Tensor) -> Tensor:
        """Map (..., F) to (...,) logits."""
        thinned = functional.dropout(standard, _DROPOUT, self.training)
        hidden = functional.dropout(functional.gelu(self.hidden(thinned)), _DROPOUT, self.training)
        logits: Tensor = self.output(hidden).squeeze(-1)
        return logits


def fit_quality(examples: Examples, seed: int) -> dict[str, Tensor]:
    """Train a head and return its tensors under the names of `gmvaluator.models.lite_network.HEAD_TENSORS`."""
    torch.manual_seed(seed)
    texture, target = examples.texture[examples.fit], examples.target[examples.fit]
    flat = texture.flatten(0, 1)
    shift, scale = flat.mean(dim=0), flat.std(dim=0) + 1e-3
    head = QualityHead(flat.shape[1])
    _train(head, (texture - shift) / scale, target)
    _report(head.eval(), (examples.texture - shift) / scale, examples)
    return {
        "quality_shift": shift,
        "quality_scale": scale,
        "quality_hidden": head.hidden.weight.detach().T.contiguous(),
        "quality_hidden_bias": head.hidden.bias.detach(),
        "quality_output": head.output.weight.detach()[0],
        "quality_output_bias": head.output.bias.detach()[0],
    }


def _train(head: QualityHead, standard: Tensor, target: Tensor) -> None:
    optimiser = torch.optim.AdamW(head.parameters(), _LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    batches = -(-len(standard) // _BATCH_WORKS)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE * 3, total_steps=_EPOCHS * batches)
    for _ in range(_EPOCHS):
        for rows in torch.split(torch.randperm(len(standard)), _BATCH_WORKS):
            optimiser.zero_grad()
            torch.autograd.backward(loss(head(standard[rows]), target[rows]))
            optimiser.step()
            schedule.step()


def loss(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the loss of (W, C) logits: their distance to the targets, and the order within each work; a scalar.

    The second term requires the better of two copies of one work to lead in proportion to how much better it is.
    """
    near = functional.binary_cross_entropy_with_logits(logits, target)
    better = target[:, :, None] - target[:, None, :]
    lead = logits[:, :, None] - logits[:, None, :]
    pairs = better > 0.05
    order = functional.softplus(_LOGITS_PER_QUALITY * better - lead)[pairs].mean()
    return near + 0.5 * order


def _report(head: QualityHead, standard: Tensor, examples: Examples) -> None:
    with torch.inference_mode():
        quality = torch.sigmoid(head(standard))
    for name, rows in (("fitted", examples.fit), ("held-out", ~examples.fit)):
        error = (quality[rows] - examples.target[rows]).abs().mean()
        print(f"{name} artists: {rows.sum()} works, mean error {error:.3f}", file=sys.stderr)  # noqa: T201


STRENGTHS = tuple(range(1, MAX_STRENGTH + 1))
COPIES = tuple(product(KINDS, STRENGTHS))
SMALL_CHANGE = 0.1


def qualities_of(models: Models, image: Image.Image, rng: random.Random) -> Float32Array:
    """Return (2 + copies,) qualities: the work, the work recoloured, and its copies in the order of `COPIES`."""
    copies = [distort(kind, strength, image, rng) for kind, strength in COPIES]
    return models.quality([models.prepare(image_, parts=False) for image_ in (image, recolour(image, rng), *copies)])


def rank_correlation(qualities: Float32Array) -> npt.NDArray[np.float64]:
    """Return Spearman's rank correlation of each row with falling order: (N, C) to (N,), 1 if every step is lower.

    ρ = 1 - 6 Σ d² / (C (C² - 1)), with d the difference of ranks.
    """
    count = qualities.shape[1]
    falling = np.argsort(np.argsort(-qualities, axis=1), axis=1)
    squares = ((falling - np.arange(count)) ** 2).sum(axis=1)
    correlation: npt.NDArray[np.float64] = 1 - 6 * squares / (count * (count**2 - 1))
    return correlation


def figures_of(qualities: Float32Array) -> dict[str, float]:
    """Return flat figures of (N, 2 + copies) qualities; shares in [0, 1]."""
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
    """Return the figures of a profile over every `every`-th work of the sample's test artists."""
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
    parser = argparse.ArgumentParser(prog="python -m evaluation.training.quality_head", description=__doc__)
    parser.add_argument("--profile", default="lite")
    parser.add_argument("--every", type=int, default=1, help="take every Nth work only (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    prepare_process()
    figures = measure(options.profile, options.every)
    command = f"python -m evaluation.training.quality_head --profile {options.profile} --every {options.every} --json"
    lines = [f"{name}: {value}" for name, value in figures.items()]
    print(json.dumps(report(figures, command), indent=2) if options.json else "\n".join(lines))  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
