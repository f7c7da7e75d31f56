"""Criterion C2: whether contributors share the attributes of an image: Open Clip Art's category and keywords."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from evaluation.criteria.world import ATTRIBUTE_KS
from evaluation.generators.digits import Embedder, Rows, Values, distances, nearest
from evaluation.images.recipes import TEST_OWNERS
from evaluation.images.sample import read_recipes
from evaluation.report.plots import COLOURS, draw, mean_interval
from evaluation.report.sections import Cell, Estimate, Plot, Section, Table
from gmvaluator.images import decode_image
from gmvaluator.samples import sample_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RECALL, RERANKED, RANDOM = "recall only", "re-ranked", "random works"
WORKS, DERIVED = "real works", "derivatives"
_SEED = 12


@dataclass(frozen=True, slots=True)
class Artwork:
    """A work with the category and keywords its author gave it."""

    owner_id: str
    key: str
    file_name: str
    category: str
    keywords: frozenset[str]


@dataclass(frozen=True, slots=True)
class Question:
    """An image and its attributes.

    sources: rows of the works it was made from, or of itself, which do not count as answers. likeness: (N,) for each
    attribute, what a work shares with the sources.
    """

    sources: tuple[int, ...]
    category: Values
    keyword: Values


def attributes(embedder: Embedder, count: int) -> Section:
    """Run the criterion and return its section. count: number of works; every n-th of the sample."""
    works = _artworks(count)
    folder = sample_folder("openclipart")
    images = [decode_image((folder / work.file_name).read_bytes()) for work in works]
    embeddings = embedder.images(images, "clip art")
    queries = [row for row, work in enumerate(works) if work.owner_id in TEST_OWNERS]
    own = [_question(works, (row,)) for row in queries]
    recall = distances(embeddings.recall[queries], embeddings.recall)
    perceptual = distances(embeddings.perceptual[queries], embeddings.perceptual)
    answers = {WORKS: (own, _rows(own, recall, perceptual))}
    derived, pictures = _derivatives(works)
    if derived:
        embedded = embedder.images(pictures, "derivatives of clip art")
        recall, perceptual = (
            distances(queries, works)
            for queries, works in ((embedded.recall, embeddings.recall), (embedded.perceptual, embeddings.perceptual))
        )
        answers[DERIVED] = (derived, _rows(derived, recall, perceptual))
    return _section(len(works), answers)


def _artworks(count: int) -> list[Artwork]:
    with (sample_folder("openclipart") / "manifest.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    every = max(len(rows) // count, 1)
    return [
        Artwork(
            row["owner_id"],
            row["key"],
            row["file_name"],
            row["category"].split("/")[0],
            frozenset(filter(None, (word.strip().lower() for word in row["keywords"].split(";")))),
        )
        for row in rows[::every][:count]
    ]


def _question(works: Sequence[Artwork], sources: tuple[int, ...]) -> Question:
    categories = {works[row].category for row in sources}
    keywords = frozenset().union(*(works[row].keywords for row in sources))
    return Question(
        sources,
        np.array([float(work.category in categories) for work in works]),
        np.array([float(bool(work.keywords & keywords)) for work in works]),
    )


def _derivatives(works: Sequence[Artwork]) -> tuple[list[Question], list[Image.Image]]:
    rows = {work.key: row for row, work in enumerate(works)}
    folder = sample_folder("generated")
    questions, pictures = [], []
    for recipe in read_recipes(folder):
        keys = recipe.source_keys.split(";")
        if all(key in rows for key in keys):
            questions.append(_question(works, tuple(rows[key] for key in keys)))
            pictures.append(decode_image((folder / recipe.file_name).read_bytes()))
    return questions, pictures


def _rows(questions: Sequence[Question], recall: Values, perceptual: Values) -> dict[str, Rows]:
    """Return (J, k) works by row of the table, without the sources, which would be too easy an answer."""
    for row, question in enumerate(questions):
        recall[row, list(question.sources)] = np.inf
        perceptual[row, list(question.sources)] = np.inf
    depth = max(ATTRIBUTE_KS)
    chance = np.random.default_rng(_SEED).random(recall.shape)
    chance[~np.isfinite(recall)] = np.inf
    return {
        name: nearest(matrix, depth).rows
        for name, matrix in ((RANDOM, chance), (RECALL, recall), (RERANKED, perceptual))
    }


def shared(questions: Sequence[Question], rows: Rows, k: int, attribute: str) -> Values:
    """Return the (J,) share of each image's k contributors that share the attribute."""
    values = [getattr(question, attribute)[line[:k]].mean() for question, line in zip(questions, rows, strict=True)]
    return np.array(values)


def _uniform(questions: Sequence[Question], attribute: str) -> Estimate:
    return mean_interval(
        [np.delete(getattr(question, attribute), list(question.sources)).mean() for question in questions]
    )


def _section(works: int, answers: Mapping[str, tuple[list[Question], Mapping[str, Rows]]]) -> Section:
    figures = {
        f"c2_{attribute}_k{k}": round(
            float(shared(answers[WORKS][0], answers[WORKS][1][RERANKED], k, attribute).mean()), 4
        )
        for attribute in ("category", "keyword")
        for k in ATTRIBUTE_KS
    }
    return Section(
        "C2: same attributes",
        [
            f"{works:,} works of Open Clip Art, each seen whole, searched exactly. Asked are works of artists on whom "
            "nothing was fitted, one at a time, and the shipped derivatives of works of all artists; the work itself "
            "or the derivative's source does not count. A contributor shares the category if it lies in the same top "
            "folder, and a keyword if it has at least one in common. Most categories have dozens of drawings that look "
            "like nothing in common; the keywords are of their authors.",
        ],
        figures,
        [_table(answers)],
        [_plot(answers)],
    )


def _table(answers: Mapping[str, tuple[list[Question], Mapping[str, Rows]]]) -> Table:
    lines: list[list[Cell | Estimate]] = []
    for images, (questions, rows) in answers.items():
        for attribute in ("category", "keyword"):
            level = _uniform(questions, attribute)
            lines.append([f"{attribute}: uniform over all works", images, *[level] * len(ATTRIBUTE_KS)])
            for name, chosen in rows.items():
                means = [mean_interval(shared(questions, chosen, k, attribute)) for k in ATTRIBUTE_KS]
                lines.append([f"{attribute}: {name}", images, *means])
    return Table(
        "Share of the k contributors that share the attribute",
        ("row", "queries", *(f"k = {k}" for k in ATTRIBUTE_KS)),
        lines,
    )


def _plot(answers: Mapping[str, tuple[list[Question], Mapping[str, Rows]]]) -> Plot:
    def paint(axes: Axes) -> None:
        for (images, (questions, rows)), style in zip(answers.items(), ("-", "--"), strict=False):
            for attribute, colour in zip(("category", "keyword"), COLOURS, strict=False):
                for name, marker in ((RERANKED, "o"), (RANDOM, "x")):
                    means = [shared(questions, rows[name], k, attribute).mean() for k in ATTRIBUTE_KS]
                    label = f"{attribute}, {name}, {images}"
                    axes.plot(ATTRIBUTE_KS, means, style, color=colour, marker=marker, label=label)
        axes.set(xlabel="k", ylabel="share of contributors", ylim=(0, 1), xticks=ATTRIBUTE_KS)
        axes.legend(fontsize=7, ncols=2, loc="upper right")

    return Plot("Contributors with an attribute in common, beside works drawn by chance.", draw(paint))
