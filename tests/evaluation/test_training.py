"""What profile `lite` is fitted with: distortions, derivatives, works, a training, and how it is judged."""

import csv
import random
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageChops, ImageStat, PngImagePlugin

from evaluation.images.distortions import KINDS, distort
from evaluation.images.recipes import TEST_OWNERS
from evaluation.images.works import (
    LIST,
    Work,
    artist_key,
    as_input,
    by_sample_artist,
    clean_variant,
    distinct,
    fit_artist,
    make_pool,
    read_works,
)
from evaluation.training.adapt import Stage, Training
from evaluation.training.augment import change_batch, derive_batch
from evaluation.training.embedder import Embedder
from evaluation.training.fit_lite import half_precision, write_curve
from evaluation.training.quality_head import COPIES, figures_of, rank_correlation
from evaluation.training.validation import Derivative, Validation, make_validation, reranked_ranks, source_ranks
from evaluation.training.validation import figures_of as retrieval_figures
from gmvaluator.images import decode_image
from gmvaluator.models.lite_network import Backbone
from gmvaluator.models.lite_weights import HEAD_TENSORS
from gmvaluator.ports import Embeddings, WorkEmbeddings
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


def test_only_fit_artists_of_the_sample_are_trained_on() -> None:
    with (sample_folder("openclipart") / "manifest.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            assert (fit_artist(row["author"]) is None) == (row["owner_id"] in TEST_OWNERS), row["author"]


@pytest.mark.parametrize("author", ["Lauris Kaplinski and Jo Doe", "Linda Kim et al", "Monty", ""])
def test_works_by_others_or_by_several_are_not_a_fit_artist_s(author: str) -> None:
    assert fit_artist(author) is None


def test_a_listed_work_that_is_absent_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_works(tmp_path)


def some_works(count: int) -> list[Work]:
    paths = sorted((sample_folder("openclipart") / "images").glob("*.webp"))[: count * 10 : 10]
    return [Work(path.stem, f"artist {row}", decode_image(path.read_bytes())) for row, path in enumerate(paths)]


def inputs_of(works: list[Work], side_px: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([as_input(work.image, side_px) for work in works]))


def untrained() -> Embedder:
    torch.manual_seed(1)
    return Embedder(timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict())


def test_repeated_pixels_count_once() -> None:
    first, second = some_works(2)
    assert distinct([first, second, Work("again", "other", first.image)]) == [first, second]


def test_derivatives_in_bulk_are_reproducible_and_stay_in_range() -> None:
    images = inputs_of(some_works(6), 64).float() / 255
    one, again = (derive_batch(images, images.roll(1, 0), 48, torch.Generator().manual_seed(3)) for _ in range(2))
    assert one.shape == (6, 3, 48, 48)
    assert torch.equal(one, again)
    assert 0 <= float(one.min()) <= float(one.max()) <= 1
    assert (change_batch(images, 0.0, torch.Generator().manual_seed(3)) - images).abs().mean() < 0.02


def small_training(stage: Stage, folder: Path) -> Training:
    works = some_works(96)
    inputs = inputs_of(works, 32)
    pool = inputs[:, None].expand(-1, 2, -1, -1, -1)
    validation = Validation(inputs[:8], inputs[:8], torch.arange(8), inputs[8:12])
    return Training(stage, untrained(), inputs, inputs_of(works, 48), pool, validation, folder)


def test_a_training_stopped_and_resumed_ends_as_if_it_had_not(tmp_path: Path) -> None:
    def stage(stop: int) -> Stage:
        return Stage("short", 1, steps=3, stop=stop, entropy_weight=1.0, recipe_share=0.5, source_px=48)

    for name in ("whole", "halves"):
        (tmp_path / name).mkdir()
    whole = small_training(stage(2), tmp_path / "whole")
    whole.run()
    small_training(stage(1), tmp_path / "halves").run()
    resumed = small_training(stage(2), tmp_path / "halves")
    resumed.resume()
    assert resumed.step == 1
    resumed.run()
    for name, value in whole.average.trained_state().items():
        assert torch.equal(value, resumed.average.trained_state()[name]), name
    write_curve({"short": resumed.curve}, tmp_path)
    assert (tmp_path / "lite-training.csv").read_text().splitlines()[-1].startswith("short,2,")
    assert (tmp_path / "lite-training.svg").read_text().startswith("<svg")


def test_what_was_trained_is_what_the_product_computes() -> None:
    """In training the frozen part runs in bfloat16, and what is shipped is rounded to float16."""
    works = inputs_of(some_works(24), 64)
    embedder = untrained()
    embedder.start_head(works)
    state = half_precision(embedder.published_state())
    tensors = embedder.head_tensors()
    pixels = works[:4].float() / 127.5 - 1
    with torch.inference_mode():
        pooled, _ = Backbone(state)(pixels.contiguous(memory_format=torch.channels_last))
    assert torch.cosine_similarity(pooled, embedder.pooled(pixels).detach()).min() > 0.999
    assert set(tensors) <= set(HEAD_TENSORS)


def test_validation_s_absent_works_are_by_other_artists() -> None:
    works = some_works(30)
    validation = make_validation(works[:10], works[10:], 32, 1)
    assert (len(validation.index), len(validation.present), len(validation.absent)) == (25, 5, 10)
    assert torch.equal(validation.rows, torch.arange(5))


def test_the_pool_has_each_recipe_once() -> None:
    works = some_works(3)
    pool = make_pool(works, 40, 1)
    assert pool.shape == (3, 5, 3, 40, 40)
    assert torch.equal(pool, make_pool(works, 40, 1))


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
    (ranks,) = source_ranks(works[:, None], query[:, None], [derivative])
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
    monkeypatch.setattr("evaluation.training.validation.DEPTH", 2)
    works = WorkEmbeddings(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)[:, None])
    queries = Embeddings(
        np.array([[0.1, 0.9, 0.3, 0.2]], np.float32), np.array([[[0.1, 0.2, 0.3, 0.9]]], np.float32), None
    )
    (ranks,) = reranked_ranks(works, queries, [Derivative("compose", frogs(), (1, 3))])
    assert ranks.tolist() == [1, 4]
