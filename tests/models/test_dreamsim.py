"""DreamSim from its stored vectors against the package's own distance, for every released type.

The weights are seeded: the formats and the arithmetic are compared, not the published files, which come from a hub.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.bench.serving.seeded_models import injected_hub, write_dreamsim
from gmvaluator.models import dreamsim
from gmvaluator.models.device import Runtime
from gmvaluator.models.known_models import DREAMSIM_TYPES, dreamsim_spec
from gmvaluator.models.preprocessing import Squash
from gmvaluator.models.weight_files import ModelsFolder, file_sha256
from gmvaluator.ports import Float32Array
from tests.golden.models import check_golden

pytestmark = [
    pytest.mark.models,
    pytest.mark.timeout(600),
    # What the packages say about their own code.
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module", params=sorted(DREAMSIM_TYPES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def root(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(kind)
    write_dreamsim(folder, kind)
    return folder


@pytest.fixture(scope="module")
def model(root: Path, kind: str) -> dreamsim.DreamSim:
    """The product's model, loaded once a type: its weights are hundreds of megabytes."""
    spec, folder = dreamsim_spec(kind), ModelsFolder(root)
    hashes = {file.role: file_sha256(folder.path(file)) for file in spec.files}
    return dreamsim.load(spec, folder, hashes, Runtime(torch.device("cpu")))


@pytest.fixture(scope="module")
def rows(model: dreamsim.DreamSim, pictures: list[Image.Image]) -> Float32Array:
    """Vectors of all pictures, embedded as one batch."""
    return vectors(model, pictures)


def package(root: Path, kind: str) -> tuple[Any, Any]:
    import dreamsim as upstream

    with injected_hub(root / "dreamsim"):
        model, preprocess = upstream.dreamsim(
            pretrained=True, device="cpu", cache_dir=str(root / "dreamsim"), dreamsim_type=kind
        )
    return model, preprocess


def vectors(model: dreamsim.DreamSim, pictures: list[Image.Image]) -> Float32Array:
    with torch.inference_mode():
        return model.embed([Squash()(picture) for picture in pictures])


@pytest.mark.usefixtures("no_network")
def test_the_distance_of_stored_vectors_is_the_package_s(
    root: Path, kind: str, rows: Float32Array, pictures: list[Image.Image]
) -> None:
    assert rows.shape == (len(pictures), dreamsim_spec(kind).dim)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)

    check_golden(f"dreamsim-{kind}", rows[:2])

    upstream, preprocess = package(root, kind)
    tensors = torch.cat([preprocess(picture) for picture in pictures])
    with torch.inference_mode():
        expected = upstream(tensors, tensors.roll(-1, dims=0)).numpy()
    distances = 1 - (rows * np.roll(rows, -1, axis=0)).sum(axis=1)
    np.testing.assert_allclose(distances, expected, rtol=0, atol=1e-5)
    assert expected.min() > 1e-3, "the seeded model sees no difference, so nothing was compared"


def test_a_batch_equals_singles(model: dreamsim.DreamSim, rows: Float32Array, pictures: list[Image.Image]) -> None:
    # One drawing, the blurred noise and the narrow one: the kinds of picture that differ most.
    for place in (0, -2, -1):
        np.testing.assert_allclose(vectors(model, [pictures[place]])[0], rows[place], rtol=0, atol=1e-5)
