"""Models of `gmvaluator bench models`, each as its package's plain loop and as the product runs it.

Weights are seeded random values in the published shapes, the same in every process, so that nothing is downloaded. Time
and memory do not depend on the values. The deviation of a lower precision does, so it describes these weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from gmvaluator.models import lite_views, lite_weights
from gmvaluator.models.dreamsim import optimize_transformer
from gmvaluator.ports import Float32Array, Prepared

SIDE_PX = 224
SEED = 20230401

Pixels = npt.NDArray[np.uint8]
Model = Callable[[Sequence[Pixels]], Float32Array]
"""B images (3, 224, 224) uint8 to (B, D) vectors of unit norm, or to (B,) qualities."""

_CLIP_MEAN, _CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def images(count: int) -> list[Pixels]:
    """Return `count` smooth seeded images: noise on a coarse grid, enlarged."""
    coarse = torch.rand(count, 3, 14, 14, generator=torch.Generator().manual_seed(SEED))
    smooth = functional.interpolate(coarse, size=(SIDE_PX, SIDE_PX), mode="bicubic").clamp(0, 1)
    return list((smooth * 255).to(torch.uint8).numpy())


def plain(name: str) -> Model:
    """Return the model as the loop that its package documents."""
    return {"clip": _plain_clip, "dreamsim": _plain_dreamsim, "maniqa": _plain_maniqa, "lite": _plain_lite}[name]()


def product(name: str, precision: str) -> Model:
    """Return the model as the product runs it."""
    makers = {"clip": _product_clip, "dreamsim": _product_dreamsim, "maniqa": _product_maniqa, "lite": _product_lite}
    return makers[name](precision)


def _batch(inputs: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(inputs)).to(torch.float32).div(255)


def _normal(inputs: Sequence[Pixels]) -> Tensor:
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (_CLIP_MEAN, _CLIP_DEVIATION))
    return (_batch(inputs) - mean) / deviation


def _unit(rows: Tensor) -> Float32Array:
    unit: Float32Array = functional.normalize(rows.float(), dim=-1).numpy()
    return unit


def _seeded_clip() -> Any:
    import open_clip

    torch.manual_seed(SEED)
    return open_clip.create_model("ViT-B-32", load_weights=False, pretrained_text=False).eval().requires_grad_(False)


def _plain_clip() -> Model:
    model = _seeded_clip()
    return lambda inputs: _unit(model.encode_image(_normal(inputs)))


def _product_clip(precision: str) -> Model:
    from gmvaluator.models.device import Runtime
    from gmvaluator.models.known_models import openclip_spec
    from gmvaluator.models.openclip import OpenClip, openclip_preparer

    transform = openclip_preparer(openclip_spec("ViT-B-32:laion2b_s34b_b79k"))
    return OpenClip(_seeded_clip(), transform, Runtime(torch.device("cpu"), precision)).embed


def _seeded_dreamsim() -> Any:
    """Return the model of `dreamsim.dreamsim(dreamsim_type="open_clip_vitb32")` with seeded weights."""
    from unittest.mock import patch

    from dreamsim import PerceptualModel
    from dreamsim.config import dreamsim_args
    from dreamsim.feature_extraction import extractor
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(SEED)
    with patch.object(extractor, "load_open_clip_as_dino", _open_clip_as_dino):
        options = dreamsim_args["model_config"]["open_clip_vitb32"]
        model = PerceptualModel(**options, device="cpu", normalize_embeds=True)
    settings = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.3, bias="none", target_modules=["qkv"])
    adapted = get_peft_model(model, settings)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # peft initialises these with zeros, so that the adapter would do nothing
            nn.init.normal_(parameter, std=0.02)
    return adapted.eval().requires_grad_(False)


def _open_clip_as_dino(patch_size: int, *_: object, **__: object) -> tuple[nn.Module, Tensor]:
    """Replace dreamsim's `load_open_clip_as_dino`, which reads a checkpoint, by seeded weights."""
    from dreamsim.feature_extraction.vision_transformer import vit_base

    vit = vit_base(patch_size=patch_size)
    vit.pos_drop = nn.LayerNorm(vit.embed_dim)
    for parameter in vit.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02)
    for module in vit.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    return vit, torch.randn(vit.embed_dim, 512) * vit.embed_dim**-0.5


def _plain_dreamsim() -> Model:
    model = _seeded_dreamsim()
    return lambda inputs: _unit(model.embed(_batch(inputs)))


def _product_dreamsim(precision: str) -> Model:
    model = _seeded_dreamsim().merge_and_unload()
    optimize_transformer(model.extractor_list[0].model, precision)
    return lambda inputs: _unit(model.embed(_batch(inputs)))


def _seeded_maniqa() -> Any:
    from gmvaluator.models.maniqa import build

    torch.manual_seed(SEED)
    return build("maniqa")


def _plain_maniqa() -> Model:
    """Return MANIQA with one crop per image, which is the whole of an image of 224 pixels."""
    network = _seeded_maniqa()
    network.test_sample = 1

    def score(inputs: Sequence[Pixels]) -> Float32Array:
        with _not_enlarged():
            quality: Float32Array = network(_batch(inputs))[:, 0].clamp(0, 1).numpy()
        return quality

    return score


def _product_maniqa(precision: str) -> Model:
    from gmvaluator.models.device import Runtime
    from gmvaluator.models.maniqa import Maniqa
    from gmvaluator.models.quality_memory import QualityMemory

    memory = QualityMemory()
    adapter = Maniqa(_seeded_maniqa(), Runtime(torch.device("cpu"), precision), crops=1, memory=memory)

    def score(inputs: Sequence[Pixels]) -> Float32Array:
        memory.clear()  # otherwise later batches would look up the scores of the first
        crops = [image[np.newaxis] for image in inputs]
        qualities = adapter.quality_slice(crops)
        while None in qualities:
            qualities = adapter.quality_slice(crops)
        return np.array(qualities, np.float32)

    return score


def _not_enlarged() -> Any:
    """Keep pyiqa from enlarging images of exactly a crop's size by one pixel."""
    from unittest.mock import patch

    from pyiqa.archs import maniqa_arch

    return patch.object(maniqa_arch, "uniform_crop", lambda pixels, **_: pixels)


def _plain_lite() -> Model:
    """Return timm's network as timm builds it, with the profile's weights and heads."""
    from gmvaluator.models.profiles import profile_identity

    heads = lite_weights.Heads(
        lite_weights.pinned_tensors(lite_weights.HEADS_FILE, profile_identity("lite").weights["heads"])
    )
    return partial(_timm_views, timm_backbone(), heads)


def timm_backbone() -> Any:
    """Return timm's EfficientNet-Lite0 with the weights of `lite`: pixels in [-1, 1] to its last layer's means."""
    import timm

    from gmvaluator.models.profiles import profile_identity

    net: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    state = lite_weights.pinned_tensors(lite_weights.BACKBONE_FILE, profile_identity("lite").weights["backbone"])
    net.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in state.items()})
    return net.eval().requires_grad_(False)


def _timm_views(net: Any, heads: lite_weights.Heads, inputs: Sequence[Pixels]) -> Float32Array:
    """Return (B, 2 * 514): the vectors of the whole image and of a blurred copy."""
    pixels = _batch(inputs) * 2 - 1
    softened = torch.from_numpy(lite_weights.blur(pixels.numpy()))
    sharp, blurred = _timm_lite(net, heads, pixels), _timm_lite(net, heads, softened)
    return np.concatenate([lite_views.pad_whole(sharp), lite_views.weight_blurs(blurred)], axis=1)


def _timm_lite(net: Any, heads: lite_weights.Heads, pixels: Tensor) -> Float32Array:
    hidden = net.bn1(net.conv_stem(pixels))
    stages = []
    for number, block in enumerate(net.blocks):
        hidden = block(hidden)
        if number in lite_weights.STAGE_BLOCKS:
            stages.append(hidden)
    pooled = [stage.mean(dim=(2, 3)) for stage in [*stages[-3:], net.bn2(net.conv_head(hidden))]]
    texture = [value for stage in stages for value in (stage.mean((2, 3)), stage.std((2, 3), correction=0))]
    embedding, _ = heads(lite_weights.Features(torch.cat(pooled, dim=1).numpy(), torch.cat(texture, dim=1).numpy()))
    return embedding


def _product_lite(precision: str) -> Model:
    from gmvaluator.models.choice import ProfileChoice
    from gmvaluator.models.profiles import load_models

    models = load_models(ProfileChoice("lite", precision=precision))

    def embed(inputs: Sequence[Pixels]) -> Float32Array:
        scaled = (pixels.astype(np.float32) / np.float32(127.5) - np.float32(1) for pixels in inputs)
        return models.embed([Prepared.shared(pixels) for pixels in scaled]).perceptual.reshape(len(inputs), -1)

    return embed
