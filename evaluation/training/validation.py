"""Validation of a profile: how well it finds the true sources of derivatives, by exact search of the whole sample.

    python -m evaluation.training.validation --json > docs/results/lite-retrieval.json

Two test sets are measured, both derived from works of the test artists, as the models were trained on works of the fit
artists: `examples`, from `examples/generated`, and `fresh`, generated during the run by every recipe with other seeds.
An image's rank is that of its nearest true source; `both` counts composed images whose two sources are both found.

`Validation` is the set by which training is chosen: works of held-out artists, derived by the recipes for fitting.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from evaluation.images.recipes import KINDS, STRENGTHS, TEST_KINDS, TEST_OWNERS, derive, source_count
from evaluation.images.sample import draw_sources, read_recipes, read_works, render
from evaluation.images.works import Work, as_input
from evaluation.training.embedder import Embedder
from gmvaluator.images import decode_image
from gmvaluator.models.process_setup import prepare_process
from gmvaluator.models.profiles import load_models
from gmvaluator.ports import Embeddings, Float32Array, Models, WorkEmbeddings
from gmvaluator.report import report
from gmvaluator.samples import sample_folder

NEAR = 50
"""Number of contributors that policy `paper` pays."""

DEPTH = 200
"""Number of candidates that policy `paper` re-ranks."""

FRESH_ROUNDS = 15
FRESH_SEED = 7919
_CHUNK = 32

Ranks = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Derivative:
    """An image whose sources are known, as rows of the sample."""

    kind: str
    image: Image.Image
    source_rows: tuple[int, ...]


def example_derivatives(rows: Mapping[str, int]) -> list[Derivative]:
    """Return the images of `examples/generated` made of works by test artists. rows: the sample's row of each key."""
    folder = sample_folder("generated")
    works = read_works(sample_folder("openclipart"))
    return [
        Derivative(
            recipe.kind,
            decode_image((folder / recipe.file_name).read_bytes()),
            tuple(rows[key] for key in recipe.sources),
        )
        for recipe in read_recipes(folder)
        if all(works[key].owner_id in TEST_OWNERS for key in recipe.sources)
    ]


def fresh_derivatives(rows: Mapping[str, int]) -> list[Derivative]:
    """Make derivatives of every kind and strength, `FRESH_ROUNDS` times, from sources drawn over all test artists."""
    folder = sample_folder("openclipart")
    rng = random.Random(FRESH_SEED)  # noqa: S311 - must be reproducible
    draw = draw_sources([work for work in read_works(folder).values() if work.owner_id in TEST_OWNERS], rng)
    derivatives = []
    for kind, strength in [*product((*KINDS, *TEST_KINDS), STRENGTHS)] * FRESH_ROUNDS:
        sources = [next(draw) for _ in range(source_count(kind))]
        image = render(kind, strength, sources, folder, rng.getrandbits(32))
        derivatives.append(Derivative(kind, image, tuple(rows[source.key] for source in sources)))
    return derivatives


def embed_all(models: Models, images: Iterable[Image.Image]) -> Embeddings:
    """Embed all images, a batch at a time."""
    inputs = [models.prepare(image, parts=False) for image in images]
    parts = [models.embed(inputs[start : start + _CHUNK]) for start in range(0, len(inputs), _CHUNK)]
    return Embeddings(
        np.concatenate([part.recall for part in parts]),
        np.concatenate([part.perceptual for part in parts]),
        None,
    )


def index_all(models: Models, images: Iterable[Image.Image]) -> WorkEmbeddings:
    """Embed all works as the index does."""
    parts = [models.embed_works([models.prepare_work(image)]) for image in images]
    return WorkEmbeddings(
        np.concatenate([part.recall for part in parts]), np.concatenate([part.perceptual for part in parts])
    )


def source_ranks(works: Float32Array, queries: Float32Array, derivatives: Sequence[Derivative]) -> list[Ranks]:
    """Return for each derivative the ranks of its sources, 0 the nearest, in the order of `source_rows`.

    works: (N, V, P) views of each work. queries: (B, Q, P) views of each derivative.
    """
    return [
        _ranks(nearest_views(works, query), derivative.source_rows)
        for query, derivative in zip(queries, derivatives, strict=True)
    ]


def nearest_views(works: Float32Array, query: Float32Array) -> Float32Array:
    """Return the (N,) largest cosine of a view of each work (N, V, P) and a view of the query (Q, P)."""
    cosines: Float32Array = (works @ query.T).max(axis=(1, 2))
    return cosines


def reranked_ranks(works: WorkEmbeddings, queries: Embeddings, derivatives: Sequence[Derivative]) -> list[Ranks]:
    """Return ranks like `source_ranks`, the way the service works: `DEPTH` candidates by recall, then by distance.

    A source that is not recalled ranks behind every work.
    """
    ranks = []
    for recall, perceptual, derivative in zip(queries.recall, queries.perceptual, derivatives, strict=True):
        cosines = np.full(len(works.recall), -2.0, dtype=np.float32)
        recalled = np.argsort(-(works.recall @ recall))[:DEPTH]
        cosines[recalled] = nearest_views(works.perceptual[recalled], perceptual)
        ranked = _ranks(cosines, derivative.source_rows)
        ranks.append(np.where(np.isin(derivative.source_rows, recalled), ranked, len(cosines)))
    return ranks


def _ranks(cosines: Float32Array, rows: Sequence[int]) -> Ranks:
    return np.array([np.count_nonzero(cosines > cosines[row]) for row in rows], dtype=np.int64)


def figures_of(name: str, ranks: Sequence[Ranks], derivatives: Sequence[Derivative]) -> dict[str, float]:
    """Return shares in [0, 1] under flat names that begin with `name`, over all kinds and for each."""
    best = np.array([ranked.min() for ranked in ranks])
    worst = np.array([ranked.max() for ranked in ranks])
    kinds = np.array([derivative.kind for derivative in derivatives])
    figures = {
        f"{name}_source_first_share": _share(best < 1),
        f"{name}_source_within_{NEAR}_share": _share(best < NEAR),
    }
    for kind in sorted(set(kinds)):
        figures[f"{name}_{kind}_source_first_share"] = _share(best[kinds == kind] < 1)
        figures[f"{name}_{kind}_source_within_{NEAR}_share"] = _share(best[kinds == kind] < NEAR)
    if "compose" in kinds:
        figures[f"{name}_compose_both_within_{NEAR}_share"] = _share(worst[kinds == "compose"] < NEAR)
    return figures


def _share(hits: npt.NDArray[np.bool_]) -> float:
    return round(float(hits.mean()), 4)


def measure(profile: str) -> dict[str, float]:
    """Return all figures of a profile on the sample."""
    models = load_models(profile)
    folder = sample_folder("openclipart")
    works = read_works(folder)
    rows = {key: row for row, key in enumerate(works)}
    index = index_all(models, (decode_image((folder / work.file_name).read_bytes()) for work in works.values()))
    figures: dict[str, float] = {"works": len(works)}
    for name, derivatives in (("examples", example_derivatives(rows)), ("fresh", fresh_derivatives(rows))):
        queries = embed_all(models, (derivative.image for derivative in derivatives))
        figures[f"{name}_images"] = len(derivatives)
        by_recall = source_ranks(index.recall[:, None], queries.recall[:, None], derivatives)
        by_distance = source_ranks(index.perceptual, queries.perceptual, derivatives)
        figures |= figures_of(f"{name}_recall", by_recall, derivatives)
        figures |= figures_of(f"{name}_perceptual", by_distance, derivatives)
        figures |= figures_of(f"{name}_reranked", reranked_ranks(index, queries, derivatives), derivatives)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evaluation.training.validation", description=__doc__)
    parser.add_argument("--profile", default="lite")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    prepare_process()
    figures = measure(options.profile)
    command = f"python -m evaluation.training.validation --profile {options.profile} --json"
    lines = [f"{name}: {value}" for name, value in figures.items()]
    print(json.dumps(report(figures, command), indent=2) if options.json else "\n".join(lines))  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

_TEMPERATURES = tuple(0.02 * 1.15**step for step in range(16))


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores in [0, 1], higher is better.

    Share of derivatives whose work is nearest; mean share of the work under the softmax at the likeliest temperature;
    area under the ROC curve of works in the index against works that are not.
    """

    source_first: float
    credit: float
    absent_auc: float


@dataclass(frozen=True, slots=True)
class Validation:
    """A set of works to search, and derivatives as queries.

    index: (N, 3, S, S) uint8 works. present: derivatives, rows their works. absent: of works not in the index.
    """

    index: Tensor
    present: Tensor
    rows: Tensor
    absent: Tensor

    def score(self, embedder: Embedder) -> Scores:
        """Search exactly by cosine and score."""
        index, present, absent = (embedder.embed_all(images) for images in (self.index, self.present, self.absent))
        cosines = present @ index.T
        nearest = torch.cat([cosines.amax(dim=1), (absent @ index.T).amax(dim=1)])
        labels = [1] * len(present) + [0] * len(absent)
        source = cosines.gather(1, self.rows[:, None])
        return Scores(
            round(float((cosines.argmax(dim=1) == self.rows).float().mean()), 4),
            round(_credit(cosines, source), 4),
            round(float(roc_auc_score(labels, nearest.numpy())), 4),
        )


def _credit(cosines: Tensor, source: Tensor) -> float:
    logs = [(source / t - torch.logsumexp(cosines / t, dim=1, keepdim=True)) for t in _TEMPERATURES]
    return float(max(logs, key=lambda log: float(log.mean())).exp().mean())


def make_validation(held: Sequence[Work], trained: Sequence[Work], side: int, seed: int) -> Validation:
    """Index the works of half of the held-out artists and enough trained ones; the other half is absent."""
    rng = random.Random(f"{seed}/validation")  # noqa: S311 - must be reproducible
    artists = sorted({work.artist for work in held})
    absent = set(rng.sample(artists, len(artists) // 2))
    known = [work for work in held if work.artist not in absent]
    unknown = [work for work in held if work.artist in absent]
    index = [*known, *rng.sample(trained, max(min(1_050 - len(known), len(trained)), 0))]
    kinds = [kind for kind in KINDS if source_count(kind) == 1]
    derived = [
        derive(kinds[n % 4], STRENGTHS[n // 4 % 4], [work.image], rng) for n, work in enumerate([*known, *unknown])
    ]
    return Validation(
        _stack([work.image for work in index], side),
        _stack(derived[: len(known)], side),
        torch.arange(len(known)),
        _stack([*derived[len(known) :], *(work.image for work in unknown)], side),
    )


def _stack(images: Sequence[Image.Image], side: int) -> Tensor:
    return torch.from_numpy(np.stack([as_input(image, side) for image in images]))
