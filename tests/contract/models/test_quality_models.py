"""Quality models that take MANIQA's place, each next to its package with the same seeded weights."""

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from gmvaluator.errors import InvalidInput, MissingWeights, ModelFailed, UnknownModel
from gmvaluator.images import decode_image
from gmvaluator.models import preprocessing, pyiqa_metric
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.device import Runtime
from gmvaluator.models.known_models import PYIQA_METRICS, lite_quality_spec, pyiqa_spec, specs_of
from gmvaluator.models.lite import load_lite_quality
from gmvaluator.models.profiles import load_models
from gmvaluator.models.specs import ModelSpec
from gmvaluator.models.weight_files import ModelsFolder, file_sha256
from gmvaluator.samples import sample_folder
from tests.golden.models import check_golden

CPU = Runtime(torch.device("cpu"))


def picture(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(width).integers(0, 255, (9, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def seeded(name: str) -> Any:
    """What the package's own file of a metric holds, with seeded values."""
    torch.manual_seed(5)
    if name == "cnniqa":
        from pyiqa.archs.cnniqa_arch import CNNIQA

        return {"params": CNNIQA(pretrained=None).state_dict()}
    if name == "musiq":
        from pyiqa.archs.musiq_arch import MUSIQ

        return MUSIQ(pretrained=False).state_dict()
    return torch.rand(30, 1), torch.rand(30, 36)


def stored(name: str, models: Path) -> Path:
    path = models / "pyiqa" / PYIQA_METRICS[name].file
    path.parent.mkdir(parents=True)
    if name == "niqe":
        spread = np.random.default_rng(5).normal(size=(36, 36))
        savemat(path, {"mu_prisparam": np.ones((1, 36)), "cov_prisparam": spread @ spread.T})
    else:
        torch.save(seeded(name), path)
    return path


def loaded(name: str, models: Path) -> pyiqa_metric.PyiqaQuality:
    spec = pyiqa_spec(name, 0)
    hashes = {file.role: file_sha256(models / file.path) for file in spec.files}
    return pyiqa_metric.load(spec, ModelsFolder(models), hashes, CPU)


@pytest.mark.parametrize("name", ["cnniqa", "musiq", "brisque", "niqe"])
def test_the_quality_is_the_package_s_value_on_our_scale(name: str, tmp_path: Path) -> None:
    path = stored(name, tmp_path)
    model, metric = loaded(name, tmp_path), PYIQA_METRICS[name]
    pixels = preprocessing.BoundedPixels()(picture(200, 150))
    with torch.inference_mode():
        (quality,) = model.quality_slice([pixels])
        value = float(pyiqa_metric.build(name, path)(torch.tensor(pixels)[None].float() / 255).reshape(-1)[0])
    assert quality == pytest.approx(min(max((value - metric.worst) / (metric.best - metric.worst), 0), 1), abs=1e-6)
    check_golden(name, np.array([quality], np.float32))


def test_one_image_a_slice_and_none_twice(tmp_path: Path) -> None:
    stored("cnniqa", tmp_path)
    model = loaded("cnniqa", tmp_path)
    inputs = [preprocessing.BoundedPixels()(picture(width, 100)) for width in (100, 140, 100)]
    with torch.inference_mode():
        assert [quality is not None for quality in model.quality_slice(inputs)] == [True, False, True]
        assert None not in model.quality_slice(inputs)


class NotFinite(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.tensor([math.nan])


def test_a_value_that_is_not_finite_names_its_row() -> None:
    model = pyiqa_metric.PyiqaQuality(NotFinite(), CPU, 0, 1)
    with pytest.raises(ModelFailed, match="row 0 "):
        model.quality_slice([preprocessing.BoundedPixels()(picture(100, 100))])


class Malicious:
    def __reduce__(self) -> Any:
        return print, ("code ran",)


@pytest.mark.parametrize("name", ["cnniqa", "brisque"])
def test_a_pickle_with_code_in_it_loads_nothing(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = stored(name, tmp_path)
    path.write_bytes(pickle.dumps({"params": Malicious()}, protocol=2))
    with pytest.raises(MissingWeights, match="nothing of them was loaded"):
        loaded(name, tmp_path)
    assert "code ran" not in capsys.readouterr().out


def test_a_checkpoint_of_another_architecture_names_both_shapes(tmp_path: Path) -> None:
    path = stored("cnniqa", tmp_path)
    state = seeded("cnniqa")
    state["params"]["fc2.weight"] = torch.zeros(3, 4)
    torch.save(state, path)
    with pytest.raises(MissingWeights, match=r"fc2.weight has shape \(3, 4\) there.*\(800, 800\) in CNNIQA"):
        loaded("cnniqa", tmp_path)


@pytest.mark.parametrize("size", [(1, 1), (4000, 31), (31, 4000), (3000, 2000), (100, 100), (1024, 96)])
def test_any_size_is_brought_within_bounds(size: tuple[int, int]) -> None:
    pixels = preprocessing.BoundedPixels()(picture(*size))
    assert max(pixels.shape[1:]) <= preprocessing.MAX_SIDE_PX
    assert min(pixels.shape[1:]) >= preprocessing.MIN_SIDE_PX


def test_the_lite_head_is_profile_lite_s(tmp_path: Path) -> None:
    spec = lite_quality_spec()
    folder = ModelsFolder(tmp_path)
    hashes = {file.role: folder.recorded_sha256(file) for file in spec.files}
    model = load_lite_quality(spec, folder, hashes, CPU)
    path = next((sample_folder("openclipart") / "images").glob("*.webp"))
    image = decode_image(path.read_bytes())
    lite = load_models("lite")
    with torch.inference_mode():
        qualities = model.quality_slice([preprocessing.LitePreparer()(image)] * 2)
    assert qualities == pytest.approx(lite.quality([lite.prepare(image)] * 2).tolist(), abs=1e-6)


def quality_spec(**options: Any) -> ModelSpec:
    return specs_of(ProfileChoice("paper", **options)).quality


def test_crops_are_part_of_the_identity() -> None:
    assert quality_spec().model == "pyiqa maniqa, 20 crops"
    assert quality_spec(quality="maniqa-kadid", crops=3).model == "pyiqa maniqa-kadid, 3 crops"


@pytest.mark.parametrize("quality", ["off", "lite", "musiq"])
def test_crops_are_refused_where_nothing_is_cut(quality: str) -> None:
    with pytest.raises(InvalidInput, match="--crops"):
        quality_spec(quality=quality, crops=3)


@pytest.mark.parametrize("crops", [-1, 21])
def test_crops_out_of_range_are_refused(crops: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 20"):
        quality_spec(crops=crops)


def test_an_unknown_metric_lists_the_known() -> None:
    with pytest.raises(UnknownModel, match="musiq, musiq-spaq"):
        quality_spec(quality="taste")
