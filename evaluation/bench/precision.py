"""Benchmarks of cheaper computation: `gmvaluator bench precision` and `gmvaluator bench crops`.

The former measures how much credit a lower precision moves, and whether sources are still found. Works and queries are
embedded in the same precision, because an index and its queries have to agree; the search is exact.

The latter measures how far MANIQA's quality by fewer crops deviates from that by all 20. Fewer crops are a prefix of
one order (`gmvaluator.models.preprocessing`), so one pass over 20 crops gives every count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from evaluation.images.sample import read_recipes, read_works
from evaluation.training.validation import (
    DEPTH,
    NEAR,
    Derivative,
    embed_all,
    example_derivatives,
    fresh_derivatives,
    index_all,
    nearest_views,
    reranked_ranks,
)
from gmvaluator.images import decode_image
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.device import Runtime, usable_device
from gmvaluator.models.known_models import specs_of
from gmvaluator.models.maniqa import load
from gmvaluator.models.preprocessing import Pixels, cell_order, preparer_of
from gmvaluator.models.profiles import profile_identity
from gmvaluator.models.specs import ModelSpec
from gmvaluator.models.weight_files import ModelsFolder
from gmvaluator.ports import Embeddings, Models, WorkEmbeddings
from gmvaluator.samples import sample_folder
from gmvaluator.valuation.policy import Policy
from gmvaluator.valuation.weights import distance_millionths

Values = npt.NDArray[np.float64]

MAX_TOTAL_VARIATION = 0.01
"""Share of an image's credit that an acceptable precision may move on average."""

COUNTS = (1, 2, 3, 5, 8, 12, 16)
"""Numbers of crops that are compared with all 20."""


@dataclass(frozen=True, slots=True)
class PrecisionResult:
    """Embeddings of all works and all queries in one precision."""

    works: WorkEmbeddings
    queries: Embeddings


def bench_precision(load: Callable[[str], Models], precision: str, policies: Sequence[Policy]) -> dict[str, Any]:
    """Compare `precision` with fp32 on the sample's works and derivatives of works by test artists.

    load: returns the models of a precision. total_variation_*: half the sum of the absolute differences of an image's
    shares, the unattributed share included. acceptable: 1 if the mean total variation of each policy is at most
    `MAX_TOTAL_VARIATION`, and sources are found as often, within two standard errors of the paired difference.
    """
    works = list(read_works(sample_folder("openclipart")).values())
    rows = {work.key: row for row, work in enumerate(works)}
    derivatives = [*example_derivatives(rows), *fresh_derivatives(rows)]
    pictures = [_picture(work.file_name) for work in works]
    exact, low = (_embed(load(name), pictures, derivatives) for name in ("fp32", precision))
    figures: dict[str, Any] = {"images": len(derivatives), **_moved(exact, low)}
    variations = {policy.reference: _total_variation(policy, exact, low) for policy in policies}
    for reference, values in variations.items():
        name = reference.replace("@", "_")
        figures |= {
            f"total_variation_{name}_mean": float(values.mean()),
            f"total_variation_{name}_p95": float(np.percentile(values, 95)),
            f"total_variation_{name}_max": float(values.max()),
        }
    hits = {name: _source_hits(result, derivatives) for name, result in (("fp32", exact), (precision, low))}
    for name, by_rank in hits.items():
        figures |= {f"source_{rank}_{name}": float(values.mean()) for rank, values in by_rank.items()}
    as_often = all(_as_often(hits["fp32"][rank], hits[precision][rank]) for rank in ("first", "within_50"))
    credit_stays = all(values.mean() <= MAX_TOTAL_VARIATION for values in variations.values())
    return {**figures, "acceptable": int(as_often and credit_stays)}


def _picture(file_name: str) -> Image.Image:
    return decode_image((sample_folder("openclipart") / file_name).read_bytes())


def _embed(models: Models, works: Sequence[Image.Image], derivatives: Sequence[Derivative]) -> PrecisionResult:
    return PrecisionResult(
        index_all(models, works), embed_all(models, [derivative.image for derivative in derivatives])
    )


def _moved(exact: PrecisionResult, low: PrecisionResult) -> dict[str, float]:
    """Return how far perceptual distances moved, and how often the nearest work stayed the same."""
    exact_distances, low_distances = (
        np.stack([1 - nearest_views(result.works.perceptual, query) for query in result.queries.perceptual])
        for result in (exact, low)
    )
    return {
        "distance_moved_mean": float(np.abs(exact_distances - low_distances).mean()),
        "distance_moved_max": float(np.abs(exact_distances - low_distances).max()),
        "nearest_kept_share": float((exact_distances.argmin(axis=1) == low_distances.argmin(axis=1)).mean()),
    }


def _total_variation(policy: Policy, exact: PrecisionResult, low: PrecisionResult) -> Values:
    pairs = zip(_all_shares(policy, exact), _all_shares(policy, low), strict=True)
    return np.array([np.abs(exact_shares - low_shares).sum() / 2 for exact_shares, low_shares in pairs])


def _all_shares(policy: Policy, result: PrecisionResult) -> list[Values]:
    """Return the share of every work by query; the last one is unattributed."""
    return [
        _shares(policy, result.works, recall, perceptual)
        for recall, perceptual in zip(result.queries.recall, result.queries.perceptual, strict=True)
    ]


def _shares(policy: Policy, works: WorkEmbeddings, recall: npt.NDArray[Any], perceptual: npt.NDArray[Any]) -> Values:
    recalled = np.argsort(-(works.recall @ recall))[:DEPTH]
    distances = np.clip(1 - nearest_views(works.perceptual[recalled], perceptual), 0, 2)
    order = np.argsort(distances, kind="stable")[: policy.k]
    parts, unattributed = policy.provisional_shares(
        [distance_millionths(float(distances[candidate])) for candidate in order]
    )
    shares = np.zeros(len(works.recall) + 1)
    shares[recalled[order]] = parts
    shares[-1] = unattributed
    return shares


def _source_hits(result: PrecisionResult, derivatives: Sequence[Derivative]) -> dict[str, npt.NDArray[np.bool_]]:
    nearest = np.array([ranks.min() for ranks in reranked_ranks(result.works, result.queries, derivatives)])
    return {"first": nearest == 0, "within_50": nearest < NEAR}


def _as_often(exact: npt.NDArray[np.bool_], low: npt.NDArray[np.bool_]) -> bool:
    """Return whether `low` finds no fewer sources than `exact`, within two standard errors of the paired difference."""
    difference = low.astype(np.float64) - exact
    return bool(difference.mean() + 2 * difference.std() / np.sqrt(len(difference)) >= 0)


def bench_crops(choice: ProfileChoice, device: str, images: int) -> dict[str, Any]:
    """Measure the mean and largest deviation of the quality by number of crops, over generated images.

    choice: profile paper with a MANIQA, whose weights the figures describe. Raises MissingWeights and other errors of
    loading.
    """
    spec, folder = specs_of(choice).quality, ModelsFolder(choice.models)
    runtime = Runtime(usable_device(device), profile_identity(choice).precision)
    hashes = {file.role: folder.recorded_sha256(file) for file in spec.files}
    model = load(spec, folder, hashes, runtime)
    return deviations([model.crop_sums(pixels) for pixels in _inputs(spec, images)])


def deviations(sums: Sequence[Values]) -> dict[str, Any]:
    """Return the deviations by number of crops.

    sums: for each image (20, 2), weighted quality and weight of each crop in pyiqa's order.
    """
    figures: dict[str, Any] = {"images": len(sums), "quality_mean": float(np.mean([_quality(crops) for crops in sums]))}
    for count in COUNTS:
        chosen = sorted(cell_order()[:count])
        deviation = np.abs([_quality(crops[chosen]) - _quality(crops) for crops in sums])
        figures |= {
            f"crops_{count}_deviation_mean": float(deviation.mean()),
            f"crops_{count}_deviation_max": float(deviation.max()),
        }
    return figures


def _quality(sums: Values) -> float:
    weighted, weight = sums.sum(axis=0)
    return float(np.clip(weighted / (weight + 1e-8), 0, 1))


def _inputs(spec: ModelSpec, images: int) -> list[Pixels]:
    folder = sample_folder("generated")
    prepare = preparer_of(spec)
    assert prepare is not None
    return [prepare(decode_image((folder / recipe.file_name).read_bytes())) for recipe in read_recipes(folder)[:images]]
