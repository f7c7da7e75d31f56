"""The counterfactual benchmark: train, attribute, retrain, compare; and its section of the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from evaluation.counterfactual import datamodelling, retraining
from evaluation.counterfactual.datamodelling import ceiling
from evaluation.counterfactual.generator import DRAW_SEED, FULL, SEED, SHORT, SUBSET_SEED, Plan, latents
from evaluation.counterfactual.retraining import Laboratory, Moved
from evaluation.generators.digits import SIDE_PX, Embedder, load_mnist, to_image
from evaluation.report.plots import bars, mean_interval
from evaluation.report.sections import Estimate, Gallery, Plot, Section, Table, Tile

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Findings:
    """All results of one run.

    scores: LDS by row. agreement: of one seed's losses with another's. moves: by choice of works. perceptual: (J,)
    profile distance of each moved image, by the same names.
    """

    plan: Plan
    laboratory: Laboratory
    attributions: Mapping[str, Values]
    scores: Mapping[str, Estimate]
    agreement: Estimate
    moves: list[Moved]
    perceptual: Mapping[str, Values]


_GALLERY_ROWS = 6
_GALLERY_WORKS = 5


def counterfactual_section(findings: Findings) -> Section:
    """Build tables, plots and pictures of one run."""
    return Section(
        "Causes",
        _text(findings),
        _figures(findings),
        [_score_table(findings), _move_table(findings)],
        [_score_plot(findings), _move_plot(findings)],
        [_gallery(findings)],
    )


def _text(findings: Findings) -> list[str]:
    plan = findings.plan
    return [
        f"A small variational autoencoder learns from {plan.works} digits and draws {plan.images} images from fixed "
        "latents. It is trained again without some of them, from the same start, in the same order, with the same "
        "noise; what changes was caused by the works left out, up to the chance that remains.",
        f"The linear datamodelling score takes {plan.subsets} random halves of the works, trains on each with two "
        "seeds, and asks whether the credits of the works in a half predict how likely the model finds the generated "
        "image: 1 if they order the halves rightly, 0 if they say nothing. Scored is the mean of both seeds, which "
        "holds less chance than one. The ceiling is about what knowledge of everything but chance would score, from "
        "how well the seeds agree. Uniform credit is 0 by definition, for every half has as much of it.",
        "Recall, re-ranking and policies see pictures only. TRAK and D-TRAK see the generator's gradients on every "
        "training image, which a service outside the generator does not have; they are the reference. Their settings "
        "(1,024 dimensions, damping 0.1) were fixed beforehand and not tuned.",
        "One kind of generator, one data set, hundreds of works: how it is for large generators is not shown.",
    ]


def _figures(findings: Findings) -> dict[str, float]:
    named = {
        "lds_uniform": datamodelling.UNIFORM,
        "lds_random": datamodelling.RANDOM,
        "lds_recall": datamodelling.RECALL,
        "lds_reranked": datamodelling.RERANKED,
        "lds_calibrated": datamodelling.WITH_CALIBRATED,
        "lds_reranked_uncut": datamodelling.UNCUT,
        "lds_pixels": datamodelling.PIXELS,
        "lds_reference": datamodelling.TRAK,
        "lds_reference_d_trak": datamodelling.D_TRAK,
    }
    figures = {name: findings.scores[row].value for name, row in named.items()}
    figures["lds_agreement_of_seeds"] = findings.agreement.value
    figures["lds_ceiling"] = ceiling(findings.agreement).value
    top, chance = _move(findings, f"top by {datamodelling.RERANKED}"), _move(findings, "random works")
    figures["moved_pixels_top_reranked"] = float(top.pixels.mean())
    figures["moved_pixels_random"] = float(chance.pixels.mean())
    figures["moved_pixels_ratio"] = float(top.pixels.mean() / chance.pixels.mean())
    figures["lds_subsets"] = findings.plan.subsets
    return {name: round(value, 4) for name, value in figures.items()}


def _move(findings: Findings, name: str) -> Moved:
    return next(move for move in findings.moves if move.name == name)


def _score_table(findings: Findings) -> Table:
    return Table("Linear datamodelling score (1 is all, 0 is chance)", ("attribution", "LDS"), list(_scored(findings)))


def _scored(findings: Findings) -> Iterable[tuple[str, Estimate]]:
    yield from findings.scores.items()
    yield "agreement of two single seeds", findings.agreement
    yield "ceiling, about", ceiling(findings.agreement)


def _move_table(findings: Findings) -> Table:
    chance = _move(findings, "random works")
    return Table(
        f"How far a generated image moves when {findings.plan.taken} of {findings.plan.works} works are left out",
        ("left out", "pixels, RMS", "more than random", "perceptual distance", "bound, nats"),
        [
            [
                move.name,
                mean_interval(move.pixels),
                mean_interval(move.pixels - chance.pixels),
                mean_interval(findings.perceptual[move.name]),
                mean_interval(move.loss_nats),
            ]
            for move in findings.moves
        ],
    )


def _score_plot(findings: Findings) -> Plot:
    names, values = zip(*_scored(findings), strict=True)
    return Plot("Linear datamodelling score, with 95 % intervals.", bars(names, values, "LDS"))


def _move_plot(findings: Findings) -> Plot:
    values = [mean_interval(move.pixels) for move in findings.moves]
    names = [move.name for move in findings.moves]
    return Plot("Change of the generated image, with 95 % intervals.", bars(names, values, "root mean square, 0 to 1"))


def _gallery(findings: Findings) -> Gallery:
    return Gallery(
        "A generated digit, what is drawn instead without the works that a row values most, and the works nearest to "
        "it by the profile.",
        [_tiles(findings, row) for row in range(min(_GALLERY_ROWS, findings.plan.moved))],
    )


def _tiles(findings: Findings, row: int) -> list[Tile]:
    tiles = [Tile(_picture(findings.laboratory.originals[row].numpy()), "generated")]
    tiles += [Tile(_picture(move.drawn[row]), f"without {move.name}") for move in findings.moves]
    order = np.argsort(-findings.attributions[datamodelling.UNCUT][row], kind="stable")[:_GALLERY_WORKS]
    works = findings.laboratory.pictures.numpy()
    return [*tiles, *(Tile(_picture(works[work]), "near work") for work in order)]


def _picture(pixels: npt.NDArray[np.floating]) -> Image.Image:
    return to_image((pixels.reshape(SIDE_PX, SIDE_PX) * 255).round().astype(np.uint8))


def counterfactual(profile: str, short: bool, work: Path) -> Section:
    """Run the benchmark and return its section; trained models and embeddings are cached in `work`."""
    plan = SHORT if short else FULL
    pictures = load_mnist().part(0, plan.works).images
    tensor = torch.from_numpy(pictures.astype(np.float32).reshape(len(pictures), -1) / 255)
    laboratory = Laboratory(tensor, latents(plan.images, DRAW_SEED), plan.epochs, SEED, work / "retrains")
    embedder = Embedder(profile, work)
    originals = laboratory.originals.numpy()
    attributions = datamodelling.by_likeness(
        embedder.small(pictures, "training digits"), embedder.small(to_pictures(originals), "generated digits")
    )
    models = [laboratory.full, *(laboratory.model(SEED + extra) for extra in range(1, plan.reference_models))]
    attributions[datamodelling.PIXELS] = datamodelling.by_pixels(tensor, laboratory.originals)
    attributions |= datamodelling.by_gradients(models, tensor, laboratory.originals)
    scores, agreement = _scores(plan, laboratory, attributions)
    moves = retraining.moved(laboratory, retraining.choices(attributions, plan.moved, plan.taken))
    perceptual = {move.name: _perceptual(embedder, originals[: plan.moved], move.drawn) for move in moves}
    return counterfactual_section(Findings(plan, laboratory, attributions, scores, agreement, moves, perceptual))


def _scores(
    plan: Plan, laboratory: Laboratory, attributions: Mapping[str, Values]
) -> tuple[dict[str, Estimate], Estimate]:
    subsets = datamodelling.halves(plan.works, plan.subsets, SUBSET_SEED)
    first, second = (
        np.stack([laboratory.without(kept, seed).losses for kept in subsets]) for seed in (SEED, SEED + 100)
    )
    # Both seeds' mean is what attributions should predict: less of it is chance.
    losses = (first + second) / 2
    scores = {name: datamodelling.score(matrix, subsets, losses) for name, matrix in attributions.items()}
    return scores, datamodelling.estimate(first.T, second.T)


def to_pictures(drawn: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Convert (J, 784) in [0, 1] to (J, 28, 28) uint8."""
    return np.asarray((drawn * 255).round().astype(np.uint8).reshape(-1, SIDE_PX, SIDE_PX))


def _perceptual(embedder: Embedder, before: npt.NDArray[np.floating], after: npt.NDArray[np.floating]) -> Values:
    """Return the (J,) perceptual distance of each image before and after."""
    first, second = (embedder.small(to_pictures(drawn), "moved digits").perceptual for drawn in (before, after))
    return np.asarray(1 - (first.astype(np.float64) * second).sum(axis=1))
