"""Criterion C1: whether the contributors of a generated image have its class.

    share_k = (1/J) Σ_j |{i ∈ P_j(k): class(x_i) = class(x̂_j)}| / k

The paper reports 88.78 % on MNIST (DreamSim, 60,000 works) and 72.00 % for VAE-TracIn. The section also shows what the
generators draw: whether it is legible, whether all classes occur, and whether it is more than a copy of a work.

One ranking uses the graph of works; unlike nearest neighbours, it follows chains of similarity between works:

    f = (1 - α) Σ_n αⁿ Sⁿ y,    S = D^-1/2 A D^-1/2

Zhou et al. (2004), for retrieval Iscen et al. (2017). y: cosines of the query image with its 10 nearest works, to the
power of 16. A: the same of each work with its 10 nearest others, made symmetric. D: the sums of its rows. No label and
no training. The constants were chosen on real held-out digits that no criterion evaluates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evaluation.criteria.world import CLASS_KS, DIFFUSION, GENERATED, HELD, VAE, QuerySet, World
from evaluation.generators.digits import CLASSES, Pictures, Rows, Values, distances, nearest, shares, to_image
from evaluation.known_source.run import CALIBRATED
from evaluation.report.plots import COLOURS, draw, mean_interval
from evaluation.report.sections import Cell, Estimate, Gallery, Plot, Section, Table, Tile
from gmvaluator.valuation.policy import load_policy

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SURE = 0.99
"""Probability from which the classifier counts as sure; real pictures show how often it is."""


def pixel_distances(queries: Pictures, works: Pictures) -> Values:
    """Return (J, N) values 1 - cosine of the pixels of (J, 28, 28) and (N, 28, 28)."""
    return distances(flat_pixels(queries), flat_pixels(works))


def flat_pixels(pictures: Pictures) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Return (N, 784) rows of unit norm; a trace of grey keeps a black picture's row from being zero."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float32) + 1e-3
    return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True), dtype=np.float32)


def drawn_table(world: World) -> Table:
    """Return a table of what each generator draws, with real pictures for scale."""
    return Table(
        f"Query pictures: where the classifier is sure (at least {SURE}), classes, distance to the nearest work",
        ("images", "sure", "classes that occur", "largest class", "pixel distance to the nearest work"),
        [
            [
                name,
                mean_interval(answer.sure >= SURE),
                int((_frequency(answer) > 0).sum()),
                float(_frequency(answer).max()),
                mean_interval(_copied(world, answer)),
            ]
            for name, answer in world.queries.items()
        ],
    )


def drawn_figures(world: World, figure: str) -> dict[str, float]:
    """Return the figures of what the generators draw. figure: prefix of their names."""
    figures = {f"{figure}_classes_drawn": float(min((_frequency(world.queries[name]) > 0).sum() for name in GENERATED))}
    for answer, name in ((world.generated, figure), (world.queries[HELD], f"{figure}_real")):
        figures[f"{name}_sure_share"] = float((answer.sure >= SURE).mean())
        figures[f"{name}_nearest_pixel_distance"] = float(_copied(world, answer).mean())
    return figures


def _frequency(queries: QuerySet) -> Values:
    """Return the (10,) share of each class."""
    return np.bincount(queries.classes, minlength=CLASSES) / len(queries.classes)


def _copied(world: World, queries: QuerySet) -> Values:
    """Return the (J,) pixel distance to the nearest work; 0 would be a copy."""
    return np.asarray(pixel_distances(queries.pictures, world.works.images).min(axis=1))


_NEIGHBOURS = 10
_POWER = 16
_ALPHA = 0.97
_ROUNDS = 30

Cosines = npt.NDArray[np.float32]


def graph_distances(queries: Cosines, works: Cosines) -> Values:
    """Return -f, (J, N), lower is nearer.

    From cosines of J queries with N works, (J, N), and of works with works, (N, N).
    """
    graph = _graph(works)
    start = np.asarray(_sparse(queries).toarray().T, dtype=np.float32)
    reached = start
    for _ in range(_ROUNDS):
        reached = _ALPHA * (graph @ reached) + (1 - _ALPHA) * start
    return np.asarray(-reached.T, dtype=np.float64)


def _graph(works: Cosines) -> Any:
    """Return S as a sparse matrix. A work is not its own neighbour."""
    from scipy.sparse import diags

    others = works.copy()
    np.fill_diagonal(others, -1)
    near = _sparse(others)
    near = near.maximum(near.T)
    scale = diags(1 / np.sqrt(np.asarray(near.sum(axis=1)).ravel() + 1e-9))
    return (scale @ near @ scale).tocsr().astype(np.float32)


def _sparse(cosines: Cosines) -> Any:
    """Keep the 10 largest values of each row, to the power of 16; 0 elsewhere."""
    from scipy.sparse import csr_matrix

    count = min(_NEIGHBOURS, cosines.shape[1])
    columns = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    weights = np.clip(np.take_along_axis(cosines, columns, axis=1), 0, None) ** _POWER
    rows = np.repeat(np.arange(len(cosines)), count)
    return csr_matrix((weights.ravel(), (rows, columns.ravel())), shape=cosines.shape)


Vectors = npt.NDArray[np.float32]

RERANKED, RECALL, PIXELS = "re-ranked", "recall only", "pixels"
SMOOTHED, GRAPH = "re-ranked, vectors smoothed", "re-ranked, on the graph of works"
GRAPH_WITH_PIXELS = "re-ranked and pixels, on the graph of works"
BEYOND = {"smoothed": SMOOTHED, "graph": GRAPH, "graph_with_pixels": GRAPH_WITH_PIXELS}
"""Rankings that use the neighbourhood of works, by their names in the figures."""

_SMOOTHED_OVER = 10
_SMOOTHED_POWER = 3
_SEED = 31


def identical_class(world: World, figure: str) -> Section:
    """Run the criterion on one data set and return its section. figure: prefix of the figures' names."""
    ranked = {name: contributors(world, answer) for name, answer in world.queries.items()}
    everything = {row: np.concatenate([ranked[name][row] for name in GENERATED]) for row in ranked[VAE]}
    generated = world.generated
    ceiling = {k: _share(world, world.queries[HELD], ranked[HELD][RERANKED], k) for k in CLASS_KS}
    return Section(
        f"C1: same class, {world.works.name}",
        _text(world),
        _figures(world, everything, ranked[HELD], ceiling, figure),
        [drawn_table(world), _table(world, ranked, everything), _weighted_table(world)],
        [_plot(world, generated, everything, ceiling)],
        [_gallery(world)],
    )


def contributors(world: World, queries: QuerySet) -> dict[str, Rows]:
    """Return (J, 100) works by row of the table, nearest first."""
    depth = min(max(CLASS_KS), len(world.works.images))
    random = np.random.default_rng(_SEED)
    chance = np.stack([random.permutation(len(world.works.images))[:depth] for _ in queries.classes])
    seen, known = queries.embeddings.perceptual, world.embeddings.perceptual
    ranked = {
        PIXELS: pixel_distances(queries.pictures, world.works.images),
        RECALL: distances(queries.embeddings.recall, world.embeddings.recall),
        RERANKED: queries.distances,
        SMOOTHED: smoothed(seen, known),
        GRAPH: graph_distances(seen @ known.T, known @ known.T),
        GRAPH_WITH_PIXELS: _graph_with_pixels(world, queries),
    }
    return {"random works": chance, **{row: nearest(values, depth).rows for row, values in ranked.items()}}


def _graph_with_pixels(world: World, queries: QuerySet) -> Values:
    """Rank by the mean of both cosines; DreamSim joins backbones with independent errors in the same way."""
    known, drawn = world.embeddings.perceptual, queries.embeddings.perceptual
    works, pictures = flat_pixels(world.works.images), flat_pixels(queries.pictures)
    by_works = np.asarray((drawn @ known.T + pictures @ works.T) / 2, dtype=np.float32)
    return graph_distances(by_works, np.asarray((known @ known.T + works @ works.T) / 2, dtype=np.float32))


def smoothed(queries: Vectors, works: Vectors) -> Values:
    """Return (J, N) distances after moving every vector to the mean of its 10 nearest works, weighted by cosine^3.

    Database-side augmentation and query expansion (Radenović et al., 2019): no label, no training; what one picture
    resembles by chance is averaged out.
    """
    calm = _moved(works, works)
    return distances(_moved(queries, calm), calm)


def _moved(vectors: Vectors, works: Vectors) -> Vectors:
    cosine = vectors @ works.T
    near = np.argpartition(-cosine, min(_SMOOTHED_OVER, len(works) - 1), axis=1)[:, :_SMOOTHED_OVER]
    weights = np.clip(np.take_along_axis(cosine, near, axis=1), 0, None) ** _SMOOTHED_POWER
    mean = np.einsum("jk,jkd->jd", weights, works[near])
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), dtype=np.float32)


def same_class(world: World, queries: QuerySet, rows: Rows) -> Values:
    """Return (J, K) values, 1 where a contributor has the class of the image."""
    return np.asarray(world.works.labels[rows] == queries.classes[:, None], dtype=np.float64)


def _share(world: World, queries: QuerySet, rows: Rows, k: int) -> Estimate:
    return mean_interval(same_class(world, queries, rows[:, :k]).mean(axis=1))


def _figures(
    world: World, rows: Mapping[str, Rows], held: Mapping[str, Rows], ceiling: Mapping[int, Estimate], figure: str
) -> dict[str, float]:
    queries, real = world.generated, world.queries[HELD]
    sure = queries.sure >= SURE
    figures = {f"{figure}_k{k}": _share(world, queries, rows[RERANKED], k).value for k in CLASS_KS}
    figures |= {f"{figure}_real_k{k}": ceiling[k].value for k in CLASS_KS}
    for name, row in BEYOND.items():
        figures |= {f"{figure}_{name}_k{k}": _share(world, queries, rows[row], k).value for k in CLASS_KS}
        figures |= {f"{figure}_real_{name}_k{k}": _share(world, real, held[row], k).value for k in CLASS_KS}
    figures[f"{figure}_pixels_k50"] = _share(world, queries, rows[PIXELS], 50).value
    figures[f"{figure}_real_pixels_k50"] = _share(world, real, held[PIXELS], 50).value
    if sure.any():
        figures[f"{figure}_sure_k50"] = float(same_class(world, queries, rows[RERANKED][:, :50])[sure].mean())
    figures |= drawn_figures(world, figure)
    figures[f"{figure}_credit_calibrated_k50"] = weighted(world, queries, CALIBRATED).value
    figures[f"{figure}_classifier_accuracy"] = world.accuracy
    return {name: round(value, 4) for name, value in figures.items()}


def weighted(world: World, queries: QuerySet, reference: str) -> Estimate:
    """Return the share of the works' credit that goes to works of the image's class."""
    policy = load_policy(reference)
    near = nearest(queries.distances, policy.k)
    portions = shares(near, policy)
    right = (portions * same_class(world, queries, near.rows)).sum(axis=1)
    return mean_interval(right / portions.sum(axis=1))


def _text(world: World) -> list[str]:
    return [
        f"{len(world.works.images):,} pictures of {world.works.name} are trained on and indexed, each seen whole. A "
        "variational autoencoder and a latent diffusion model on top of it, both trained here, draw the images that "
        f"are evaluated. A classifier that is right on {world.accuracy:.1%} of held-out pictures names their class; "
        "held-out real pictures with their true class are the ceiling.",
        "Uniform credit over all works is right as often as a class is frequent. The last rows also look at works "
        "beside each other, without labels, which the product does not: vectors averaged with their ten nearest works, "
        "and ranking on the graph that joins each work to its ten nearest, by perceptual cosine alone and with that of "
        "the pixels. They show how much of what is missing is chance between neighbours. The paper reports 88.78 % on "
        "MNIST with 60,000 works.",
    ]


def _table(world: World, ranked: Mapping[str, Mapping[str, Rows]], everything: Mapping[str, Rows]) -> Table:
    lines: list[list[Cell | Estimate]] = [["uniform over all works", "generated", *[_uniform(world)] * len(CLASS_KS)]]
    for row, chosen in everything.items():
        lines.append([row, "generated", *(_share(world, world.generated, chosen, k) for k in CLASS_KS)])
    for name in (VAE, DIFFUSION, HELD):
        answer = world.queries[name]
        lines.append([RERANKED, name, *(_share(world, answer, ranked[name][RERANKED], k) for k in CLASS_KS)])
    answer = world.queries[HELD]
    lines += [[row, HELD, *(_share(world, answer, ranked[HELD][row], k) for k in CLASS_KS)] for row in BEYOND.values()]
    return Table(
        "Share of the k contributors with the image's class", ("row", "images", *(f"k = {k}" for k in CLASS_KS)), lines
    )


def _uniform(world: World) -> Estimate:
    frequency = np.bincount(world.works.labels, minlength=CLASSES) / len(world.works.labels)
    return mean_interval(frequency[world.generated.classes])


def _weighted_table(world: World) -> Table:
    return Table(
        "Share of what is paid to works that goes to works of the image's class",
        ("policy", *world.queries),
        [
            [name, *(weighted(world, answer, name) for answer in world.queries.values())]
            for name in ("paper@1", CALIBRATED)
        ],
    )


def _plot(world: World, queries: QuerySet, rows: Mapping[str, Rows], ceiling: Mapping[int, Estimate]) -> Plot:
    def paint(axes: Axes) -> None:
        depth = rows[RERANKED].shape[1]
        for (name, chosen), colour in zip(rows.items(), COLOURS, strict=False):
            right = same_class(world, queries, chosen).mean(axis=0)
            axes.plot(np.arange(1, depth + 1), np.cumsum(right) / np.arange(1, depth + 1), color=colour, label=name)
        axes.errorbar(
            list(ceiling), [answer.value for answer in ceiling.values()],
            yerr=_bounds(list(ceiling.values())), fmt="o", color="#333333", capsize=2, label=HELD,
        )  # fmt: skip
        axes.set(xlabel="k", ylabel="share of the image's class", ylim=(0, 1.02))
        axes.legend(fontsize=8, loc="lower left")

    return Plot(
        "Share of contributors with the class of the generated image; dots: real held-out pictures.", draw(paint)
    )


def _bounds(values: Sequence[Estimate]) -> Values:
    return np.array([[answer.value - answer.low, answer.high - answer.value] for answer in values]).T


def _gallery(world: World) -> Gallery:
    rows = []
    for answer in (world.queries[name] for name in GENERATED):
        near = nearest(answer.distances, 7).rows
        for row in range(min(4, len(near))):
            query = Tile(to_image(answer.pictures[row]), f"{answer.name}: class {answer.classes[row]}")
            works = [
                Tile(to_image(world.works.images[work]), f"class {world.works.labels[work]}") for work in near[row]
            ]
            rows.append([query, *works])
    return Gallery("The first generated images, not chosen, and the works nearest to them.", rows)
