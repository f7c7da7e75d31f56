"""LPIPS as features, next to the package's own forward pass; and re-ranking by them."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attributor.core.pixel_reranking import PixelReranking
from attributor.workers.model_worker import Features
from gmvaluator.errors import InvalidVector, MissingData, MissingWeights, UnknownModel
from gmvaluator.ids import TrainingImageId, training_image_id
from gmvaluator.images import decode_image, thumbnail, thumbnail_path
from gmvaluator.models import lpips
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.device import Runtime
from gmvaluator.models.known_models import lpips_spec, specs_of
from gmvaluator.models.preprocessing import Squash
from gmvaluator.models.weight_files import ModelsFolder, file_sha256
from gmvaluator.ports import Prepared
from gmvaluator.testing.index import MemoryIndex, MemorySearch
from tests.golden.models import check_golden

CPU = Runtime(torch.device("cpu"))
SPEC = lpips_spec("alex", 512)


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize((200, 160), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as torchvision publishes it: the trunk, and a classifier that nobody reads."""
    folder = tmp_path_factory.mktemp("models")
    path = folder / SPEC.files[0].path
    path.parent.mkdir(parents=True)
    torch.manual_seed(4)
    trunk = lpips.build().net.state_dict()
    state = {f"features.{name.partition('.')[2]}": tensor for name, tensor in trunk.items()}
    torch.save({**state, "classifier.1.weight": torch.zeros(2, 2)}, path)
    return folder


def loaded(models: Path) -> lpips.Lpips:
    hashes = {file.role: file_sha256(models / file.path) for file in SPEC.files}
    return lpips.load(SPEC, ModelsFolder(models), hashes, CPU)


def test_the_squared_distance_is_the_package_s(models: Path) -> None:
    torch.manual_seed(4)
    network = lpips.build().eval()
    pixels = [Squash()(picture(seed)) for seed in range(3)]
    batch = torch.tensor(np.stack(pixels)).float() / 255
    with torch.inference_mode():
        features = loaded(models).embed(pixels)
        expected = network(batch[:1].expand(2, -1, -1, -1), batch[1:], normalize=True).flatten().numpy()
    distances = np.square(features[0] - features[1:]).sum(axis=1, dtype=np.float64)
    np.testing.assert_allclose(distances, expected, rtol=0, atol=1e-5)
    assert expected.min() > 1e-3
    check_golden("lpips-alex", features[:2])


def test_a_checkpoint_of_another_network_names_both_shapes(models: Path, tmp_path: Path) -> None:
    path = tmp_path / SPEC.files[0].path
    path.parent.mkdir(parents=True)
    torch.save({"features.0.weight": torch.zeros(1, 1)}, path)
    with pytest.raises(MissingWeights, match=r"has shape \(1, 1\) there.*\(64, 3, 11, 11\)"):
        loaded(tmp_path)


def test_the_index_holds_the_recall_vector_in_its_place() -> None:
    specs = specs_of(ProfileChoice("paper", recall="vgg16", rerank="lpips:alex"))
    assert specs.perceptual.dim == specs.recall.dim == 4096
    with pytest.raises(UnknownModel, match="alex"):
        specs_of(ProfileChoice("paper", rerank="lpips:resnet"))


class MeanColours:
    """Models of a profile that compares mean colours; `count` images were embedded. looked_at_parts: of each image."""

    def __init__(self) -> None:
        self.count = 0
        self.looked_at_parts: list[bool] = []

    def prepare(self, image: Image.Image, parts: bool = True) -> Prepared:
        self.looked_at_parts.append(parts)
        colours: Any = np.asarray(image.resize((1, 1), Image.Resampling.BOX), np.float32).reshape(3) / 255
        return Prepared(colours, colours, colours)

    async def embed(self, prepared: Prepared) -> Features:
        assert not prepared.recall.size
        self.count += 1
        return Features(np.zeros(3, np.float32), prepared.perceptual, None, 0.0, 0.0)


def work(number: int) -> TrainingImageId:
    return training_image_id(f"{number:064x}")


@pytest.fixture
def thumbnails(tmp_path: Path) -> Path:
    for number in range(4):
        path = thumbnail_path(tmp_path, work(number))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(thumbnail(Image.new("RGB", (32, 32), (number * 60, 40, 40))))
    return tmp_path


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def reranking(
    models: MeanColours, thumbnails: Path, executor: ThreadPoolExecutor, cache_bytes: int = 1_000
) -> PixelReranking:
    search = MemorySearch(MemoryIndex())
    return PixelReranking(search, thumbnails, models.prepare, models.embed, executor, max_cache_bytes=cache_bytes)


async def test_candidates_are_ordered_by_the_squared_distance(thumbnails: Path, executor: ThreadPoolExecutor) -> None:
    models = MeanColours()
    search = reranking(models, thumbnails, executor)
    query = models.prepare(decode_image(thumbnail_path(thumbnails, work(2)).read_bytes())).perceptual
    neighbours = await search.rerank(query, [work(number) for number in range(4)], 3)
    assert [neighbour.training_image_id for neighbour in neighbours[:1]] == [work(2)]
    assert neighbours[0].perceptual_distance == 0
    assert len(neighbours) == 3
    assert neighbours[1].perceptual_distance == pytest.approx((60 / 255) ** 2, abs=0.02)


async def test_nothing_is_prepared_of_a_candidate_but_what_is_compared(
    thumbnails: Path, executor: ThreadPoolExecutor
) -> None:
    """Local features take longer than all else, and those of works are in the index."""
    models = MeanColours()
    query = np.zeros(3, np.float32)
    await reranking(models, thumbnails, executor).rerank(query, [work(number) for number in range(4)], 3)
    assert models.looked_at_parts == [False] * 4


async def test_features_are_kept_and_bounded(thumbnails: Path, executor: ThreadPoolExecutor) -> None:
    models = MeanColours()
    search = reranking(models, thumbnails, executor, cache_bytes=2 * 12)
    query = np.zeros(3, np.float32)
    await search.rerank(query, [work(0), work(1)], 2)
    await search.rerank(query, [work(0), work(1)], 2)
    assert models.count == 2
    await search.rerank(query, [work(2)], 1)
    await search.rerank(query, [work(0)], 1)
    assert models.count == 4


async def test_a_work_without_thumbnail_is_named(thumbnails: Path, executor: ThreadPoolExecutor) -> None:
    with pytest.raises(MissingData, match=str(work(9))):
        await reranking(MeanColours(), thumbnails, executor).rerank(np.zeros(3, np.float32), [work(9)], 1)


async def test_a_work_whose_thumbnail_was_cut_off_is_named(thumbnails: Path, executor: ThreadPoolExecutor) -> None:
    thumbnail_path(thumbnails, work(3)).write_bytes(b"")
    with pytest.raises(MissingData, match=str(work(3))):
        await reranking(MeanColours(), thumbnails, executor).rerank(np.zeros(3, np.float32), [work(3)], 1)


async def test_a_vector_that_is_no_such_feature_is_refused(thumbnails: Path, executor: ThreadPoolExecutor) -> None:
    with pytest.raises(InvalidVector, match="send the image itself"):
        await reranking(MeanColours(), thumbnails, executor).rerank(np.zeros(5, np.float32), [work(0)], 1)


async def test_many_queries_at_once_leave_nothing_out(thumbnails: Path, executor: ThreadPoolExecutor) -> None:
    search = reranking(MeanColours(), thumbnails, executor, cache_bytes=12)  # Room for one image.
    everything = [work(number) for number in range(4)]
    answers = await asyncio.gather(*(search.rerank(np.zeros(3, np.float32), everything, 4) for _ in range(5)))
    assert all(answer == answers[0] and len(answer) == 4 for answer in answers)
