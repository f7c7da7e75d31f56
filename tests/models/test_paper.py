"""Profile `paper` from end to end, with seeded weights in files of the published formats."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from evaluation.bench.serving.seeded_models import ARCHITECTURE, TAG, write_paper
from gmvaluator.errors import MissingWeights
from gmvaluator.models import openclip
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.device import Runtime
from gmvaluator.models.known_models import openclip_spec
from gmvaluator.models.profiles import load_models, profile_identity
from gmvaluator.models.weight_files import ModelsFolder, file_sha256
from gmvaluator.ports import Models
from gmvaluator.valuation.weights import distance_millionths
from tests.golden.models import check_golden

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def choice(tmp_path_factory: pytest.TempPathFactory) -> ProfileChoice:
    return write_paper(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def models(choice: ProfileChoice) -> Models:
    return load_models(choice)


def test_golden_outputs(models: Models, pictures: list[Image.Image]) -> None:
    """DreamSim's types and MANIQA have their own, next to the tests of each."""
    inputs = [models.prepare(picture, parts=False) for picture in pictures[:2]]
    check_golden("openclip-ViT-B-32", models.embed(inputs).recall)


@pytest.mark.usefixtures("no_network")
def test_recall_is_open_clip_s_own(choice: ProfileChoice, pictures: list[Image.Image]) -> None:
    """Offline, against the package's model and transform from the same file."""
    models = load_models(choice)
    path = choice.models / "open_clip" / ARCHITECTURE / f"{TAG}.safetensors"
    upstream, _, transform = open_clip.create_model_and_transforms(ARCHITECTURE, pretrained=str(path))
    with torch.inference_mode():
        batch = torch.stack([transform(picture) for picture in pictures])
        expected = upstream.eval().encode_image(batch, normalize=True).numpy()
    recall = models.embed([models.prepare(picture, parts=False) for picture in pictures]).recall
    np.testing.assert_allclose(recall, expected, rtol=0, atol=1e-5)


def test_a_batch_equals_singles_and_no_distance_moves_by_more_than_two_millionths(
    models: Models, pictures: list[Image.Image]
) -> None:
    inputs = [models.prepare(picture, parts=False) for picture in pictures]
    whole = models.embed(inputs)
    for row, prepared in enumerate(inputs):
        alone = models.embed([prepared])
        np.testing.assert_allclose(alone.recall[0], whole.recall[row], rtol=0, atol=1e-5)
        np.testing.assert_allclose(alone.perceptual[0], whole.perceptual[row], rtol=0, atol=1e-5)
        for other in range(len(inputs)):
            apart, together = (
                distance_millionths(1 - float(vector @ whole.perceptual[other, 0]))
                for vector in (alone.perceptual[0, 0], whole.perceptual[row, 0])
            )
            assert abs(apart - together) <= 2


def test_a_checkpoint_of_another_architecture_names_both_shapes(choice: ProfileChoice) -> None:
    path = choice.models / "open_clip" / ARCHITECTURE / f"{TAG}.safetensors"
    spec = openclip_spec(f"ViT-B-16:{path}")
    hashes = {spec.files[0].role: file_sha256(path)}
    with pytest.raises(MissingWeights, match=r"\(768, 3, 32, 32\) there, and has shape \(768, 3, 16, 16\)"):
        openclip.load(spec, ModelsFolder(choice.models), hashes, Runtime(torch.device("cpu")))


def test_the_demo_runs_on_a_models_folder(choice: ProfileChoice, tmp_path: Path) -> None:
    choice = replace(choice, crops=4)  # all 20 take half a minute an image, and have tests of their own
    words = ["demo", "--data", str(tmp_path / "demo"), *choice.arguments(), "--works", "12", "--images", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "gmvaluator", *words], capture_output=True, text=True, check=False, timeout=800
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    report = json.loads(done.stdout)
    assert report["reconciles"]
    assert report["policy"] == "paper@1"
    assert report["index"]["points"] == 12
    assert report["index"]["collection"]["metadata"]["profile"] == profile_identity(choice).as_dict()
    finals = [image["stages"][-1] for image in report["images"]]
    assert len(finals) == 2
    for final in finals:
        assert final["issued_micros"] == pytest.approx(final["quality"] * 1_000_000, abs=1)
        assert len(final["contributors"]) == 12
