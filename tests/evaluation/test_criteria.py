"""The paper's criteria: what is counted is right, on pictures whose neighbours are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.criteria import attributes, class_match, trained_on
from evaluation.criteria.efficiency import PlainPipeline, real_index
from evaluation.criteria.world import DIFFUSION, HELD, VAE, QuerySet, World, classes_of, train_classifier
from evaluation.generators.digits import Embedder, Labelled, distances, load_mnist, nearest, to_image
from evaluation.report.plots import auc
from gmvaluator.ids import sha256_hex, training_image_id
from gmvaluator.models.profiles import load_models, profile_identity
from gmvaluator.ports import Embeddings

WORKS = 200
DIMENSIONS = profile_identity("lite").recall_dim
MORE = profile_identity("lite").perceptual_dim - DIMENSIONS


def embeddings(labels: np.ndarray[tuple[int], np.dtype[np.int64]], seed: int, spread: float = 0.4) -> Embeddings:
    """A direction for each class, and something of one's own."""
    vectors = spread * np.random.default_rng(seed).normal(size=(len(labels), DIMENSIONS)) / DIMENSIONS**0.5
    vectors[np.arange(len(labels)), labels] += 1
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return Embeddings(vectors, np.pad(vectors, ((0, 0), (0, MORE))), np.full(len(labels), 0.5, dtype=np.float32))


@pytest.fixture(scope="module")
def world() -> World:
    digits = load_mnist()
    works, held = digits.part(0, WORKS), digits.part(WORKS, WORKS + 40)
    own, other = embeddings(works.labels, 1), embeddings(held.labels, 2)
    asked = {}
    for name in (VAE, DIFFUSION, HELD):
        matrix = distances(other.perceptual[:12], own.perceptual)
        sure = np.ones(12, dtype=np.float32)
        some = Embeddings(other.recall[:12], other.perceptual[:12], np.full(12, 0.5, dtype=np.float32))
        asked[name] = QuerySet(name, held.images[:12], held.labels[:12], sure, some, matrix)
    return World(works, held, own, other, asked, 0.97)


def test_contributors_of_the_class_are_counted(world: World) -> None:
    section = class_match.identical_class(world, "c1_mnist")
    frequent = np.bincount(world.works.labels).min()
    near = class_match.contributors(world, world.queries[VAE])
    rows = near[class_match.RERANKED][:, :frequent]
    assert class_match.same_class(world, world.queries[VAE], rows).mean() == 1
    chance = class_match.same_class(world, world.queries[VAE], near["random works"]).mean()
    assert chance == pytest.approx(0.1, abs=0.05)
    assert section.figures["c1_mnist_k50"] == pytest.approx(section.figures["c1_mnist_real_k50"])
    assert section.figures["c1_mnist_k100"] < section.figures["c1_mnist_k50"] < section.figures["c1_mnist_k30"]
    assert all(len(row) == len(table.columns) for table in section.tables for row in table.rows)
    assert section.plots[0].svg.startswith("<svg")


def test_what_is_drawn_is_judged_by_sureness_classes_and_copies(world: World) -> None:
    one = world.queries[HELD]
    copies = QuerySet(VAE, world.works.images[:12], np.full(12, 3), one.sure * 0.5, one.embeddings, one.distances)
    copying = World(
        world.works, world.held, world.embeddings, world.held_embeddings, world.queries | {VAE: copies}, world.accuracy
    )
    figures = class_match.drawn_figures(copying, "c1")
    assert figures["c1_sure_share"] == 0.5
    assert figures["c1_real_sure_share"] == 1
    assert figures["c1_classes_drawn"] == 1
    assert 0 < figures["c1_nearest_pixel_distance"] < figures["c1_real_nearest_pixel_distance"]
    by_name = {row[0]: row[2:4] for row in class_match.drawn_table(copying).rows}
    assert by_name[VAE] == [1, 1.0]
    assert class_match.pixel_distances(copies.pictures, world.works.images).min(axis=1) == pytest.approx(0, abs=1e-6)


def test_the_graph_of_works_follows_chains_of_likeness() -> None:
    """Works from 0 to 66 degrees, four alike at each step, and strays at -40, nearer to the image than half of them."""
    degrees = np.array([*np.repeat(np.arange(0, 67, 6), 4), *[-40] * 12])
    works = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1).astype(np.float32)
    image = np.array([[1.0, 0.0]], dtype=np.float32)
    ranked = nearest(class_match.graph_distances(image @ works.T, works @ works.T), len(works)).rows[0]
    plain = nearest(distances(image, works), len(works)).rows[0]
    assert set(degrees[ranked[-12:]]) == {-40}
    assert set(degrees[plain[-12:]]) == {54, 60, 66}


def test_smoothing_brings_a_class_together(world: World) -> None:
    loose, query = embeddings(world.works.labels, 3, spread=3.5), embeddings(world.held.labels, 4, spread=6.0)
    shares = []
    for matrix in (
        distances(query.perceptual, loose.perceptual),
        class_match.smoothed(query.perceptual, loose.perceptual),
    ):
        rows = np.argsort(matrix, axis=1)[:, :15]
        shares.append(float((world.works.labels[rows] == world.held.labels[:, None]).mean()))
    assert shares[1] > shares[0] + 0.05


def test_values_tell_what_was_trained_on_only_if_it_is_nearer(world: World) -> None:
    same = trained_on.trained_on(world)
    assert same.figures["ra2_value_trained"] + same.figures["ra2_value_held_out"] == pytest.approx(2, abs=0.01)
    both = trained_on.Both("one", np.array([1.5, 1.6, 1.4]), np.array([0.5, 0.4, 0.6]))
    assert both.p < 0.001
    assert trained_on.Both("none", np.ones(3), np.ones(3)).p == 1


def test_a_higher_value_of_the_clean_counts_and_a_tie_counts_half() -> None:
    clean = np.array([True, True, False, False])
    assert auc(np.array([3.0, 2.0, 1.0, 0.0]), clean) == 1
    assert auc(np.array([3.0, 0.0, 1.0, 2.0]), clean) == 0.5
    assert auc(np.zeros(4), clean) == 0.5


def test_attributes_leave_out_the_source_itself() -> None:
    works = [
        attributes.Artwork("one", "a", "", "animals", frozenset({"cat", "pet"})),
        attributes.Artwork("one", "b", "", "animals", frozenset({"dog", "pet"})),
        attributes.Artwork("two", "c", "", "food", frozenset({"bread"})),
    ]
    questions = [attributes.Question((0,), np.array([1.0, 1, 0]), np.array([1.0, 1, 0]))]
    assert [attributes._question(works, (0,)).keyword.tolist()] == [[1, 1, 0]]
    matrix = np.array([[0.0, 0.9, 0.1]])
    rows = attributes._rows(questions, matrix.copy(), matrix.copy())[attributes.RERANKED]
    assert rows[0, :2].tolist() == [2, 1]
    assert attributes.shared(questions, rows, 2, "keyword").tolist() == [0.5]


def test_a_classifier_learns_and_leaves_the_global_state_alone() -> None:
    import torch

    state = torch.random.get_rng_state()
    images = np.zeros((64, 28, 28), dtype=np.uint8)
    images[::2, :, :14] = 255
    data = Labelled("halves", images, np.arange(64) % 2)
    classes, sure = classes_of(train_classifier(data, 1, 12), images)
    assert classes.tolist() == data.labels.tolist()
    assert sure.min() > 0.5
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_real_index_answers_as_exact_search_does(world: World) -> None:
    with real_index("lite", world.works.images, world.embeddings) as index:
        from gmvaluator.index.schema import SearchSettings

        query = world.queries[VAE].embeddings.recall[0]
        found = [index.rows[one] for one, _ in index.store.nearest(query, 10, SearchSettings())]
    exact = np.argsort(-(world.embeddings.recall @ query))[:10]
    assert len(set(found) & set(exact.tolist())) >= 9
    assert index.ids[0] == training_image_id(sha256_hex(world.works.images[0].tobytes()))


def test_the_plain_pipeline_finds_what_the_service_finds(tmp_path: Path) -> None:
    digits = load_mnist().part(0, 60)
    embedder = Embedder("lite", tmp_path)
    found = embedder.small(digits.images, "digits")
    again = Embedder("lite", tmp_path).small(digits.images, "digits")
    assert np.array_equal(found.perceptual, again.perceptual)
    plain = PlainPipeline(load_models("lite"), digits.images, found.recall)
    rows, values = plain.value(to_image(digits.images[7]))
    assert rows[0] == 7
    assert values.sum() == pytest.approx(float(np.asarray(found.quality)[7]), abs=1e-5)
    exact = distances(found.perceptual[7:8], found.perceptual)[0]
    assert np.all(np.diff(exact[rows]) > -1e-6)
