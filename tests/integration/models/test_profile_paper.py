"""Composition of profile `paper`: variants, identity, one resize for two models, errors of single images."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gmvaluator.errors import InvalidImage, InvalidInput, MissingWeights, ModelFailed, UnknownModel
from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.composed import ComposedModels
from gmvaluator.models.dreamsim import LowRankAdapter
from gmvaluator.models.known_models import DREAMSIM_TYPES, specs_of
from gmvaluator.models.lite_weights import shipped_detector
from gmvaluator.models.preprocessing import NOTHING, Pixels, Preparation, Squash, pixels_of
from gmvaluator.models.profiles import load_models, profile_identity
from gmvaluator.models.weight_files import ModelsFolder
from gmvaluator.ports import Float32Array
from gmvaluator.testing.models import FAKE_IDENTITY


def choice(folder: Path = Path("nowhere"), **variants: Any) -> ProfileChoice:
    return ProfileChoice("paper", folder, **{"quality": "off", **variants})


def filled(folder: Path, chosen: ProfileChoice) -> None:
    files = specs_of(chosen).files
    for file in files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.role.encode())
    ModelsFolder(folder).record(files)


def test_the_identity_names_models_dimensions_and_hashes(tmp_path: Path) -> None:
    chosen = choice(tmp_path)
    filled(tmp_path, chosen)
    identity = profile_identity(chosen)
    assert identity.recall_model == "open_clip ViT-B-32 laion2b_s34b_b79k"
    assert identity.perceptual_model == "dreamsim ensemble"
    assert (identity.recall_dim, identity.perceptual_dim) == (512, 768 + 512 + 512)
    assert set(identity.weights) == {"recall", *(file.role for file in specs_of(chosen).files), "local features"}
    other = choice(tmp_path, rerank="none")
    assert profile_identity(other).hash != identity.hash
    assert profile_identity(other).perceptual_dim == 512


def test_other_weights_are_another_identity(tmp_path: Path) -> None:
    chosen = choice(tmp_path, rerank="none", recall="ViT-B-32:" + str(tmp_path / "own.pt"))
    (tmp_path / "own.pt").write_bytes(b"one")
    first = profile_identity(chosen)
    (tmp_path / "own.pt").write_bytes(b"two")
    assert profile_identity(chosen).hash != first.hash


def test_the_identity_is_read_without_model_code(tmp_path: Path) -> None:
    chosen = choice(tmp_path)
    filled(tmp_path, chosen)
    program = (
        "import sys; from gmvaluator.models.profiles import profile_identity; "
        "from gmvaluator.models.choice import ProfileChoice; "
        "profile_identity(ProfileChoice.from_text(sys.argv[1])); "
        "sys.exit(bool({'torch', 'open_clip', 'dreamsim', 'pyiqa'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program, chosen.as_text()], check=False).returncode == 0


def test_a_choice_survives_its_text_and_its_arguments() -> None:
    chosen = ProfileChoice("paper", Path("/weights"), rerank="none", crops=3)
    assert ProfileChoice.from_text(chosen.as_text()) == chosen
    assert chosen.arguments() == ["--profile", "paper", "--models", "/weights", "--rerank", "none", "--crops", "3"]
    assert ProfileChoice().arguments() == []


@pytest.mark.parametrize(
    ("variants", "kind", "message"),
    [
        ({"recall": "ViT-B-32"}, InvalidInput, "ARCHITECTURE:TAG"),
        ({"recall": "ViT-B-33:openai"}, UnknownModel, "known: .*ViT-B-32"),
        ({"recall": "../ViT-B-32:openai"}, UnknownModel, "known"),
        ({"rerank": "dreamsim:vgg"}, UnknownModel, "known: clip_vitb32, .*ensemble"),
        ({"rerank": "nearest"}, InvalidInput, "dreamsim:TYPE"),
        ({"quality": "best"}, UnknownModel, "best.*known: maniqa"),
        ({"precision": "fp7"}, InvalidInput, "fp32 or bf16 or int8"),
    ],
)
def test_a_variant_that_does_not_exist_is_refused(
    variants: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        profile_identity(choice(**variants))


def test_lite_has_no_variants() -> None:
    with pytest.raises(InvalidInput, match="--profile paper"):
        profile_identity(ProfileChoice("lite", rerank="none"))


def test_lite_has_no_int8() -> None:
    with pytest.raises(InvalidInput, match="give fp32 or bf16"):
        profile_identity(ProfileChoice("lite", precision="int8"))


def test_absent_weights_say_how_to_get_them() -> None:
    with pytest.raises(MissingWeights, match="models fetch"):
        load_models(choice())


@pytest.mark.parametrize("kind", sorted(DREAMSIM_TYPES))
def test_every_released_type_is_known(kind: str) -> None:
    spec = specs_of(choice(rerank=f"dreamsim:{kind}")).perceptual
    assert spec.dim in {512, 768, 1792}
    assert len(spec.files) == len(DREAMSIM_TYPES[kind]) + 2


class Halves:
    """A preparer that counts its images."""

    square_resize = (224, "bicubic")

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, image: Image.Image) -> Pixels:
        self.count += 1
        return Squash()(image)


class Means:
    """An embedder by the mean of each channel; not finite for a black image."""

    def embed(self, inputs: Sequence[Pixels]) -> Float32Array:
        means = np.stack([pixels.mean(axis=(1, 2)) for pixels in inputs]).astype(np.float32)
        with np.errstate(invalid="ignore"):
            unit: Float32Array = means / np.linalg.norm(means, axis=1, keepdims=True)
        return unit


def test_two_models_share_the_pixels_of_a_square_image_and_of_no_other() -> None:
    recall, perceptual = Halves(), Halves()
    preparation = Preparation(recall, perceptual, None, shipped_detector())
    square = preparation.query(Image.new("RGB", (300, 300), "teal"))
    assert square.perceptual is square.recall
    assert (recall.count, perceptual.count) == (1, 0)
    wide = preparation.query(Image.new("RGB", (300, 299), "teal"))
    assert wide.perceptual is not wide.recall
    assert square.quality is NOTHING
    with pytest.raises(InvalidImage, match="RGBA"):
        preparation.query(Image.new("RGBA", (300, 300)))


def composed(perceptual: Means | None = None) -> ComposedModels:
    return ComposedModels(
        FAKE_IDENTITY, Preparation(Squash(), Squash(), None, shipped_detector()), Means(), perceptual, None
    )


def test_a_row_that_is_not_finite_is_named_and_the_model_with_it() -> None:
    models = composed(Means())
    inputs = [models.prepare(Image.new("RGB", (8, 8), colour)) for colour in ("red", "black", "blue")]
    with pytest.raises(ModelFailed, match="row 1 of the batch gave a recall"):
        models.embed(inputs)
    assert np.isfinite(models.embed([inputs[0], inputs[2]]).recall).all()


def test_a_window_that_is_not_finite_names_its_image() -> None:
    models = composed(Means())
    halved = Image.new("RGB", (448, 448), "red")
    halved.paste("black", (0, 0, 224, 448))
    with pytest.raises(ModelFailed, match="row 1 of the batch gave a recall"):
        models.embed([models.prepare(image) for image in (Image.new("RGB", (8, 8), "red"), halved)])


def test_without_a_perceptual_model_the_recall_vector_re_ranks() -> None:
    models = composed()
    works = models.embed_works([models.prepare_work(Image.new("RGB", (9, 8), "red"))])
    np.testing.assert_array_equal(works.perceptual[:, 0], works.recall)
    embeddings = models.embed([models.prepare(Image.new("RGB", (9, 8), "red"))])
    assert embeddings.quality is not None
    np.testing.assert_array_equal(embeddings.quality, [1])


def test_a_low_rank_adapter_is_added_into_the_weights(tmp_path: Path) -> None:
    down, up = torch.randn(2, 3), torch.randn(5, 2)
    adapter = LowRankAdapter(0.5, {"m.qkv.lora_A.weight": down, "m.qkv.lora_B.weight": up}, tmp_path)
    module = torch.nn.ModuleDict({"qkv": torch.nn.Linear(3, 5)})
    before = module["qkv"].weight.detach().clone()  # type: ignore[operator]
    assert adapter.add_to(module, "m.") == 1
    torch.testing.assert_close(module["qkv"].weight.detach(), before + 0.5 * up @ down)  # type: ignore[operator]
    adapter.check_used(("m.",))
    with pytest.raises(MissingWeights, match="does not have"):
        adapter.check_used(("n.",))
    with pytest.raises(MissingWeights, match="other shapes"):
        adapter.add_to(torch.nn.ModuleDict({"qkv": torch.nn.Linear(4, 5)}), "m.")


@pytest.mark.parametrize("settings", [{}, {"r": 0, "lora_alpha": 1}, {"r": 4, "lora_alpha": 1, "use_dora": True}])
def test_settings_of_another_kind_of_adapter_are_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(settings))
    with pytest.raises(MissingWeights, match=r"adapter_config\.json"):
        LowRankAdapter.read(tmp_path / "adapter_model.safetensors", path)


@pytest.mark.parametrize("size", [(1, 1), (224, 224), (31, 400), (640, 480), (97, 313)])
def test_the_transforms_are_the_packages_own_to_the_bit(size: tuple[int, int]) -> None:
    """open_clip's whole transform, and dreamsim's, against bytes that are scaled and normalised afterwards."""
    import open_clip
    from torchvision import transforms

    from gmvaluator.models.device import Normalisation, Runtime, unit_range
    from gmvaluator.models.openclip import openclip_preparer

    image = Image.effect_noise(size, 90).convert("RGB")
    runtime = Runtime(torch.device("cpu"))
    clip = openclip_preparer(specs_of(choice()).recall)
    config = open_clip.get_pretrained_cfg("ViT-B-32", "laion2b_s34b_b79k")
    expected = open_clip.image_transform(224, False, mean=config["mean"], std=config["std"])(image)
    ours = Normalisation(clip.mean, clip.deviation, runtime.device)(unit_range([clip(image)], runtime))[0]
    assert torch.equal(ours, expected)
    bicubic = transforms.InterpolationMode.BICUBIC
    squashed = transforms.Compose([transforms.Resize((224, 224), interpolation=bicubic), transforms.ToTensor()])
    assert torch.equal(unit_range([Squash()(image)], runtime)[0], squashed(image))
    assert clip.square_resize == Squash().square_resize
    if math.isclose(*size):
        np.testing.assert_array_equal(clip(image), Squash()(image))


def test_an_unknown_tag_is_refused_with_the_known_ones() -> None:
    from gmvaluator.models.openclip import openclip_preparer

    with pytest.raises(UnknownModel, match=r"known: .*laion2b_s34b_b79k"):
        openclip_preparer(specs_of(choice(recall="ViT-B-32:laion9b")).recall)


def test_pixels_are_channels_first() -> None:
    assert pixels_of(Image.new("RGB", (5, 4))).shape == (3, 4, 5)
