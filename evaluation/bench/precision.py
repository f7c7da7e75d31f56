"""`gmvaluator bench precision`: how much credit a lower precision moves, and whether sources are still found.

Works and queries are embedded in both precisions, as an index and its queries have to agree; the search is exact.

`gmvaluator bench crops`: how far MANIQA's quality by fewer crops lies from its quality by all 20.

Fewer crops are a prefix of one order (`gmvaluator.models.preprocessing`), so one pass over 20 gives every count.
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
"""Of the credit of an image on average: a precision that moves more is no default."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One precision's view of all works and all queries, and the seconds it took."""

    works: WorkEmbeddings
    queries: Embeddings


def bench_precision(load: Callable[[str], Models], precision: str, policies: Sequence[Policy]) -> dict[str, Any]:
    """Figures of `precision` beside fp32, over the sample's works and derivatives of works by test artists.

    load: a precision's models. total_variation_*: half the sum of the absolute differences of an image's shares,
    nobody's included. acceptable: at most 1 % of it on average by each policy, and sources found as often, within
    two standard errors of the paired difference.
    """
    works = list(read_works(sample_folder("openclipart")).values())
    rows = {work.key: row for row, work in enumerate(works)}
    derivatives = [*example_derivatives(rows), *fresh_derivatives(rows)]
    pictures = [_picture(work.file_name) for work in works]
    exact, low = (_seen(load(one), pictures, derivatives) for one in ("fp32", precision))
    figures: dict[str, Any] = {"images": len(derivatives), **_moved(exact, low)}
    moved = {policy.reference: _total_variation(policy, exact, low) for policy in policies}
    for reference, values in moved.items():
        name = reference.replace("@", "_")
        figures |= {
            f"total_variation_{name}_mean": float(values.mean()),
            f"total_variation_{name}_p95": float(np.percentile(values, 95)),
            f"total_variation_{name}_max": float(values.max()),
        }
    found = {name: _found(seen, derivatives) for name, seen in (("fp32", exact), (precision, low))}
    figures |= {f"source_{what}_{name}": float(hits.mean()) for name, by in found.items() for what, hits in by.items()}
    as_often = all(_as_often(found["fp32"][what], found[precision][what]) for what in ("first", "within_50"))
    credit_stays = all(values.mean() <= MAX_TOTAL_VARIATION for values in moved.values())
    return {**figures, "acceptable": int(as_often and credit_stays)}


def _picture(file_name: str) -> Image.Image:
    return decode_image((sample_folder("openclipart") / file_name).read_bytes())


def _seen(models: Models, works: Sequence[Image.Image], derivatives: Sequence[Derivative]) -> Seen:
    return Seen(index_all(models, works), embed_all(models, [one.image for one in derivatives]))


def _moved(exact: Seen, low: Seen) -> dict[str, float]:
    """What became of the perceptual distances and of the nearest work."""
    one, other = (
        np.stack([1 - nearest_views(seen.works.perceptual, query) for query in seen.queries.perceptual])
        for seen in (exact, low)
    )
    return {
        "distance_moved_mean": float(np.abs(one - other).mean()),
        "distance_moved_max": float(np.abs(one - other).max()),
        "nearest_kept_share": float((one.argmin(axis=1) == other.argmin(axis=1)).mean()),
    }


def _total_variation(policy: Policy, exact: Seen, low: Seen) -> Values:
    pairs = zip(_all_shares(policy, exact), _all_shares(policy, low), strict=True)
    return np.array([np.abs(one - other).sum() / 2 for one, other in pairs])


def _all_shares(policy: Policy, seen: Seen) -> list[Values]:
    """Of each query the share of every work, and nobody's last."""
    return [
        _shares(policy, seen.works, recall, perceptual)
        for recall, perceptual in zip(seen.queries.recall, seen.queries.perceptual, strict=True)
    ]


def _shares(policy: Policy, works: WorkEmbeddings, recall: npt.NDArray[Any], perceptual: npt.NDArray[Any]) -> Values:
    recalled = np.argsort(-(works.recall @ recall))[:DEPTH]
    distances = np.clip(1 - nearest_views(works.perceptual[recalled], perceptual), 0, 2)
    order = np.argsort(distances, kind="stable")[: policy.k]
    parts, nobody = policy.provisional_shares([distance_millionths(float(distances[one])) for one in order])
    shares = np.zeros(len(works.recall) + 1)
    shares[recalled[order]] = parts
    shares[-1] = nobody
    return shares


def _found(seen: Seen, derivatives: Sequence[Derivative]) -> dict[str, npt.NDArray[np.bool_]]:
    nearest = np.array([ranks.min() for ranks in reranked_ranks(seen.works, seen.queries, derivatives)])
    return {"first": nearest == 0, "within_50": nearest < NEAR}


def _as_often(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> bool:
    """Whether the second finds no fewer, within two standard errors of the paired difference."""
    difference = other.astype(np.float64) - one
    return bool(difference.mean() + 2 * difference.std() / np.sqrt(len(difference)) >= 0)


COUNTS = (1, 2, 3, 5, 8, 12, 16)


def bench_crops(choice: ProfileChoice, device: str, images: int) -> dict[str, Any]:
    """Figures: by number of crops the mean and the largest deviation of the quality, over generated images.

    choice: profile paper with a MANIQA; its weights decide what the figures mean. Raises what loading raises.
    """
    spec, folder = specs_of(choice).quality, ModelsFolder(choice.models)
    runtime = Runtime(usable_device(device), profile_identity(choice).precision)
    hashes = {file.role: folder.recorded_sha256(file) for file in spec.files}
    model = load(spec, folder, hashes, runtime)
    return deviations([model.crop_sums(pixels) for pixels in _inputs(spec, images)])


def deviations(sums: Sequence[Values]) -> dict[str, Any]:
    """sums: of each image (20, 2), weighted quality and weight of each crop in pyiqa's order."""
    figures: dict[str, Any] = {"images": len(sums), "quality_mean": float(np.mean([_quality(one) for one in sums]))}
    for count in COUNTS:
        chosen = sorted(cell_order()[:count])
        moved = np.abs([_quality(one[chosen]) - _quality(one) for one in sums])
        figures |= {
            f"crops_{count}_deviation_mean": float(moved.mean()),
            f"crops_{count}_deviation_max": float(moved.max()),
        }
    return figures


def _quality(sums: Values) -> float:
    weighted, weight = sums.sum(axis=0)
    return float(np.clip(weighted / (weight + 1e-8), 0, 1))


def _inputs(spec: ModelSpec, images: int) -> list[Pixels]:
    folder = sample_folder("generated")
    prepare = preparer_of(spec)
    assert prepare is not None
    return [prepare(decode_image((folder / one.file_name).read_bytes())) for one in read_recipes(folder)[:images]]
