"""What the heads of profile `lite` are fitted with: distortions, views, works, projections, and how they are judged."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageStat, PngImagePlugin

from evaluation.quality import COPIES, figures_of, rank_correlation
from evaluation.retrieval import Derivative, reranked_ranks, source_ranks
from evaluation.retrieval import figures_of as retrieval_figures
from evaluation.training.distortions import KINDS, distort
from evaluation.training.projections import Projection, fit_invariance, fit_whitening
from evaluation.training.variants import clean_variant, view
from evaluation.training.works import LIST, artist_key, by_sample_artist, read_works
from gmvaluator.images import decode_image
from gmvaluator.ports import Embeddings
from gmvaluator.samples import sample_folder

FROGS = sample_folder("openclipart") / "images" / "animals-2-dead-frogs-lumen-desig-01.webp"


def frogs() -> Image.Image:
    return decode_image(FROGS.read_bytes())


def difference(one: Image.Image, other: Image.Image) -> float:
    return sum(ImageStat.Stat(ImageChops.difference(one, other)).mean)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stronger_distortion_is_further_from_the_image(kind: str) -> None:
    image = frogs()
    copies = [distort(kind, strength, image, random.Random(1)) for strength in (1, 2, 3, 4)]
    assert all(copy.size == image.size and copy.mode == "RGB" for copy in copies)
    changes = [difference(copy, image) for copy in copies]
    assert changes == sorted(changes)


@pytest.mark.parametrize("kind", KINDS)
def test_distortions_are_reproducible(kind: str) -> None:
    one, again = (distort(kind, 2.5, frogs(), random.Random("seed")) for _ in range(2))
    assert one.tobytes() == again.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (256, 3)])
def test_small_and_narrow_images_can_be_changed(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "olive")
    for kind in KINDS:
        assert distort(kind, 4, image, random.Random(1)).size == size
    for seed in range(20):
        assert clean_variant(image, random.Random(seed)).mode == "RGB"
        assert view(image, random.Random(seed)).mode == "RGB"


@pytest.mark.parametrize(("kind", "strength"), [("melt", 1.0), ("blur", 0.0), ("blur", 5.0)])
def test_what_is_no_distortion_is_refused(kind: str, strength: float) -> None:
    with pytest.raises(ValueError, match="no distortion"):
        distort(kind, strength, frogs(), random.Random(1))


@pytest.mark.parametrize(
    ("name", "artist"),
    [
        ("food/beverages/mug_toh_yen_cheng_01", "yen"),
        ("computer/thin_client_risto_pekkal_01", "risto"),
        ("plants/flowers/red_flower_raphael_seban_02", "raphael"),
        ("signs_and_symbols/flags/miscellany/who", "signs_and_symbols/flags/miscellany"),
    ],
)
def test_artists_are_told_apart_by_file_names(name: str, artist: str) -> None:
    assert artist_key(name) == artist


def test_the_sample_is_not_trained_on() -> None:
    """The sample's keys are paths of the same package, with hyphens for slashes and underscores."""
    trained = {name.replace("/", "-").replace("_", "-") for name in LIST.read_text(encoding="utf-8").split()}
    sample = {path.stem for path in (sample_folder("openclipart") / "images").glob("*.webp")}
    assert len(trained) > 1300
    assert not trained & sample


def test_works_are_read_on_white_and_small(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGBA", (600, 300), (0, 0, 0, 0)).save(tmp_path / "a" / "clear_jo_doe_01.png")
    (tmp_path / "names.txt").write_text("a/clear_jo_doe_01\n", encoding="utf-8")
    (work,) = read_works(tmp_path, tmp_path / "names.txt")
    assert (work.artist, work.image.size, work.image.getpixel((5, 5))) == ("jo", (256, 128), (255, 255, 255))


def test_the_file_s_author_counts_and_the_sample_s_artists_are_left_out(tmp_path: Path) -> None:
    authors = {"a": "Jo Doe", "b": "Andrew Fitzsimon", "c": "Lauris Kaplinski and Jo Doe", "d": "mo", "e": "Monty"}
    for name, author in authors.items():
        text = PngImagePlugin.PngInfo()
        text.add_text("Author", author)
        Image.new("RGB", (9, 9)).save(tmp_path / f"{name}.png", pnginfo=text)
    (tmp_path / "names.txt").write_text("\n".join(authors), encoding="utf-8")
    assert [work.artist for work in read_works(tmp_path, tmp_path / "names.txt")] == ["Jo Doe", "Monty"]


def test_every_artist_of_the_sample_is_recognised() -> None:
    with (sample_folder("openclipart") / "manifest.csv").open(encoding="utf-8", newline="") as lines:
        assert all(by_sample_artist(row["author"]) for row in csv.DictReader(lines))


def test_a_listed_work_that_is_absent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_works(tmp_path)


def projected(values: np.ndarray, projection: Projection) -> np.ndarray:
    return np.asarray((values - projection.shift) @ projection.matrix.astype(np.float64))


def test_whitening_makes_directions_equal() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(4000, 12)) * np.linspace(0.1, 5, 12) + 3
    covariance = np.cov(projected(values, fit_whitening(values, 6)).T)
    np.testing.assert_allclose(covariance / covariance[0, 0], np.eye(6), atol=0.01)


def test_invariance_drops_the_direction_that_views_change() -> None:
    generator = np.random.default_rng(2)
    works = generator.normal(size=(500, 8))
    change = np.zeros(8)
    change[3] = 10
    views = works[:, None] + generator.normal(size=(500, 3, 1)) * change
    projection = fit_invariance(works, views, 4, 0.01)
    weights = np.abs(projection.matrix.astype(np.float64)).max(axis=1)
    assert weights[3] < 0.05 * np.delete(weights, 3).max()


def test_rank_correlation() -> None:
    rows = np.array([[0.9, 0.7, 0.5, 0.3, 0.1], [0.1, 0.3, 0.5, 0.7, 0.9], [0.9, 0.5, 0.7, 0.3, 0.1]], np.float32)
    np.testing.assert_allclose(rank_correlation(rows), [1, -1, 0.9])


def test_quality_figures_of_a_perfect_head() -> None:
    strengths = np.array([strength for _, strength in COPIES], np.float32)
    row = np.concatenate([[0.95, 0.94], 0.9 - strengths / 5]).astype(np.float32)
    figures = figures_of(np.stack([row, row]))
    assert all(figures[f"{kind}_clean_above_share"] == figures[f"{kind}_rank_correlation"] == 1 for kind in KINDS)
    assert figures["recoloured_median_change"] == pytest.approx(0.01)
    assert figures["clean_quality_p50"] == pytest.approx(0.95)


def test_ranks_of_sources() -> None:
    works = np.eye(4, dtype=np.float32)
    query = np.array([[0.1, 0.9, 0.3, 0.2]], np.float32)
    derivative = Derivative("compose", frogs(), (1, 3))
    (ranks,) = source_ranks(works, query, [derivative])
    assert ranks.tolist() == [0, 2]
    figures = retrieval_figures(
        "set",
        [ranks],
        [
            derivative,
        ],
    )
    assert figures["set_source_first_share"] == 1
    assert figures["set_compose_both_within_50_share"] == 1


def test_a_source_that_is_not_recalled_ranks_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.retrieval.DEPTH", 2)
    works = Embeddings(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32), None)
    queries = Embeddings(
        np.array([[0.1, 0.9, 0.3, 0.2]], np.float32), np.array([[0.1, 0.2, 0.3, 0.9]], np.float32), None
    )
    (ranks,) = reranked_ranks(works, queries, [Derivative("compose", frogs(), (1, 3))])
    assert ranks.tolist() == [1, 4]
