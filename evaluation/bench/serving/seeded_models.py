"""Checkpoints with seeded random weights, in the file formats that the model packages read.

`python -m evaluation.bench.serving.seeded_models FOLDER` writes a models folder of 1.5 GB for `--profile paper --rerank
dreamsim:open_clip_vitb32`. It serves to measure speed and to test loading; the embeddings mean nothing.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
import safetensors.torch
import torch
from torch import Tensor, nn

from gmvaluator.models.choice import ProfileChoice
from gmvaluator.models.known_models import DREAMSIM_TYPES, specs_of
from gmvaluator.models.weight_files import ModelsFolder

ARCHITECTURE, TAG = "ViT-B-32", "laion2b_s34b_b79k"
SEED = 20230421
MANIQA_SEED = 3


def write_open_clip(root: Path, architecture: str = ARCHITECTURE, tag: str = TAG) -> Path:
    """Write a CLIP checkpoint with both towers, as `models fetch` stores it; return its path."""
    torch.manual_seed(SEED)
    model = open_clip.create_model(architecture, pretrained_text=False)
    path = root / "open_clip" / architecture / f"{tag}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


def write_maniqa(root: Path, file: str = "ckpt_koniq10k.pt") -> Path:
    """Write a MANIQA checkpoint as pyiqa stores it, with its ViT-B/8; return its path."""
    from gmvaluator.models.maniqa import build

    torch.manual_seed(MANIQA_SEED)
    path = root / "pyiqa" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(build("maniqa").state_dict(), path)
    return path


def write_dreamsim(root: Path, kind: str) -> Path:
    """Write the files of DreamSim's released archive of `kind`, and those that torch.hub would fetch for it.

    Returns the folder that DreamSim loads them from.
    """
    from dreamsim import PerceptualModel
    from dreamsim.config import dreamsim_args
    from peft import LoraConfig, get_peft_model

    cache = root / "dreamsim"
    cache.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(DREAMSIM_TYPES[kind]):
        torch.manual_seed(SEED + number)
        _WRITERS[name](cache)
    with injected_hub(cache):
        options = dreamsim_args["model_config"][kind]
        model = PerceptualModel(**options, device="cpu", load_dir=str(cache), normalize_embeds=True)
    torch.manual_seed(SEED)
    alpha: Any = 0.5  # as DreamSim was trained; peft declares an int
    settings = LoraConfig(r=16, lora_alpha=alpha, lora_dropout=0.3, bias="none", target_modules=["qkv"])
    adapted = get_peft_model(model, settings)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # peft initialises these with zeros, so that the adapter would do nothing
            nn.init.normal_(parameter, std=0.5)
    adapted.save_pretrained(str(cache / ("ensemble_lora" if kind == "ensemble" else f"{kind}_single_lora")))
    return cache


@contextmanager
def injected_hub(cache: Path) -> Iterator[None]:
    """Make torch.hub return the architectures it would fetch from GitHub, with the weights in `cache`."""

    def load(repository: str, *_: object, **__: object) -> Any:
        if "dinov2" in repository:
            return _dino_v2(torch.load(cache / "checkpoints" / "dinov2_vitb14_pretrain.pth", weights_only=True))
        model = _vit_base(16)
        model.load_state_dict(torch.load(cache / "checkpoints" / "dino_vitbase16_pretrain.pth", weights_only=True))
        return model

    with patch("torch.hub.load", load), patch("torch.hub.set_dir", lambda _: None):
        yield


def _vit_base(patch_px: int, **options: Any) -> Any:
    from dreamsim.feature_extraction.vision_transformer import vit_base

    return _randomised(vit_base(patch_size=patch_px, **options))


def _randomised(module: nn.Module) -> nn.Module:
    """Give every parameter of `module` another random value, and return it."""
    # Values differ everywhere, and norms are about one: a swapped or forgotten tensor changes the output.
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(centre + 0.03 * torch.randn(parameter.shape))
    return module


def _write_clip(cache: Path, file: str, patch_px: int) -> None:
    vit = _vit_base(patch_px)
    vit.pos_drop = _randomised(nn.LayerNorm(vit.embed_dim))
    state = {**vit.state_dict(), "proj": torch.randn(vit.embed_dim, 512) * vit.embed_dim**-0.5}
    torch.save({"state_dict": state}, cache / file)


def _write_dino(cache: Path) -> None:
    (cache / "checkpoints").mkdir(exist_ok=True)
    torch.save(_vit_base(16).state_dict(), cache / "checkpoints" / "dino_vitbase16_pretrain.pth")
    sizes = {"mlp.0": (2048, 768), "mlp.2": (2048, 2048), "mlp.4": (256, 2048)}
    head: dict[str, Tensor] = {"module.head.last_layer.weight": torch.zeros(2048, 256)}
    for layer, (outputs, inputs) in sizes.items():
        head[f"module.head.{layer}.weight"] = torch.zeros(outputs, inputs)
        head[f"module.head.{layer}.bias"] = torch.zeros(outputs)
    torch.save({"student": head}, cache / "dino_vitb16_pretrain.pth")


def _write_synclr(cache: Path) -> None:
    state = {f"module.visual.{name}": value for name, value in _vit_base(16).state_dict().items()}
    torch.save({"model": state}, cache / "synclr_vit_b_16.pth")


def _write_dino_v2(cache: Path) -> None:
    (cache / "checkpoints").mkdir(exist_ok=True)
    vit = _vit_base(14, img_size=[518])
    state = {**vit.state_dict(), "mask_token": torch.zeros(1, 768)}
    for number in range(len(vit.blocks)):
        for scale in ("ls1", "ls2"):
            state[f"blocks.{number}.{scale}.gamma"] = torch.rand(768)
    for path in (cache / "checkpoints" / "dinov2_vitb14_pretrain.pth", cache / "dinov2_vitb14_pretrain.pth"):
        torch.save(state, path)


def _dino_v2(state: dict[str, Tensor]) -> Any:
    """Build DINOv2's architecture from DINO's: layer scale after attention and MLP, positions for 518 pixels."""
    vit = _vit_base(14, img_size=[518])
    scales = {name: value for name, value in state.items() if name.endswith(".gamma")}
    vit.load_state_dict({name: value for name, value in state.items() if name not in scales and name != "mask_token"})
    for number, block in enumerate(vit.blocks):
        block.scales = [scales[f"blocks.{number}.{name}.gamma"] for name in ("ls1", "ls2")]
        block.forward = types.MethodType(_scaled_block, block)
    return vit


def _scaled_block(block: Any, tokens: Tensor) -> Tensor:
    tokens = tokens + block.scales[0] * block.attn(block.norm1(tokens))[0]
    outputs: Tensor = tokens + block.scales[1] * block.mlp(block.norm2(tokens))
    return outputs


_WRITERS = {
    "clip_vitb16": lambda cache: _write_clip(cache, "clip_vitb16_pretrain.pth.tar", 16),
    "clip_vitb32": lambda cache: _write_clip(cache, "clip_vitb32_pretrain.pth.tar", 32),
    "open_clip_vitb16": lambda cache: _write_clip(cache, "open_clip_vitb16_pretrain.pth.tar", 16),
    "open_clip_vitb32": lambda cache: _write_clip(cache, "open_clip_vitb32_pretrain.pth.tar", 32),
    "dino_vitb16": _write_dino,
    "synclr_vitb16": _write_synclr,
    "dinov2_vitb14": _write_dino_v2,
}


def write_paper(root: Path) -> ProfileChoice:
    """Write and record a models folder; return the profile choice for it: the smallest DreamSim, one crop of MANIQA."""
    write_open_clip(root)
    write_dreamsim(root, "open_clip_vitb32")
    write_maniqa(root)
    choice = ProfileChoice("paper", root, rerank="dreamsim:open_clip_vitb32", crops=1)
    ModelsFolder(root).record(specs_of(choice).files)
    return choice


def main() -> None:
    """Write a models folder to the folder named on the command line, and print a command that uses it."""
    choice = write_paper(Path(sys.argv[1]))
    sys.stdout.write(f"gmvaluator demo {' '.join(choice.arguments())} --works 12 --images 2\n")


if __name__ == "__main__":
    main()
