"""Fused blocks compute the same as the packages' own blocks."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from dreamsim.feature_extraction.vision_transformer import VisionTransformer as DinoTransformer
from open_clip.transformer import LayerNorm, QuickGELU, Transformer
from torch import Tensor, nn

from gmvaluator.models import fast_layers
from gmvaluator.models.fast_layers import FusedBlock, FusedPatches, Int8Linear, fused_patches, optimize_blocks

WIDTH, HEADS, TOKENS = 64, 4, 17


def open_clip(activation: Callable[[], nn.Module] = nn.GELU, layer_scale: float | None = None) -> Any:
    transformer = Transformer(WIDTH, 3, HEADS, ls_init_value=layer_scale, act_layer=activation, norm_layer=LayerNorm)
    return transformer.resblocks


def timm_blocks(**options: Any) -> Any:
    vit = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, embed_dim=WIDTH, num_heads=HEADS, depth=3, **options
    )
    return vit.blocks


def dino() -> Any:
    return DinoTransformer(embed_dim=WIDTH, depth=3, num_heads=HEADS, qkv_bias=True).blocks


KINDS: dict[str, Callable[[], Any]] = {
    "open_clip": open_clip,
    "open_clip with QuickGELU": lambda: open_clip(QuickGELU),
    "open_clip with layer scale": lambda: open_clip(layer_scale=0.3),
    "timm": timm_blocks,
    "timm with layer scale": lambda: timm_blocks(init_values=0.3),
    "timm without bias": lambda: timm_blocks(qkv_bias=False),
    "dreamsim's DINO": dino,
}


@pytest.fixture(params=KINDS)
def blocks(request: pytest.FixtureRequest) -> nn.ModuleList:
    torch.manual_seed(7)
    built = KINDS[request.param]().eval().requires_grad_(False)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.2)
    return nn.ModuleList(built)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


def through(blocks: nn.ModuleList, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        for block in blocks:
            tokens = block(tokens)
    return tokens


def test_every_block_is_replaced_and_computes_the_same(blocks: nn.ModuleList, tokens: Tensor) -> None:
    expected = through(blocks, tokens)
    assert optimize_blocks(blocks, "fp32") == 3
    torch.testing.assert_close(through(blocks, tokens), expected, rtol=1e-5, atol=1e-5)


def test_a_device_without_onednn_gets_the_same_sums(
    blocks: nn.ModuleList, tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = through(blocks, tokens)
    monkeypatch.setattr(fast_layers, "_HAS_ONEDNN", False)
    optimize_blocks(blocks, "fp32")
    torch.testing.assert_close(through(blocks, tokens), expected, rtol=1e-5, atol=1e-5)


def test_the_first_token_is_the_same_where_only_it_is_read(blocks: nn.ModuleList, tokens: Tensor) -> None:
    expected = through(blocks, tokens)[:, 0]
    optimize_blocks(blocks, "fp32", first_token_only=True)
    outputs = through(blocks, tokens)
    assert outputs.shape == (2, 1, WIDTH)
    torch.testing.assert_close(outputs[:, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precision_stays_near(blocks: nn.ModuleList, tokens: Tensor, precision: str) -> None:
    expected = through(blocks, tokens).flatten(1)
    optimize_blocks(blocks, precision)
    outputs = through(blocks, tokens)
    assert outputs.dtype == torch.float32
    assert (1 - torch.cosine_similarity(outputs.flatten(1), expected)).max() < 1e-3


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_batch_equals_singles(blocks: nn.ModuleList, tokens: Tensor, precision: str) -> None:
    optimize_blocks(blocks, precision)
    together = through(blocks, tokens)
    alone = torch.cat([through(blocks, row[None]) for row in tokens])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_int8_rounds_each_token_by_itself_and_keeps_nan() -> None:
    """A token with a large value neither coarsens its neighbours nor hides another's NaN."""
    torch.manual_seed(3)
    weight, bias = torch.randn(32, WIDTH) / WIDTH**0.5, torch.randn(32)
    tokens = torch.randn(3, WIDTH)
    tokens[1] *= 1e4
    tokens[2, 0] = torch.nan
    outputs = Int8Linear(weight, bias)(tokens).float()
    expected = nn.functional.linear(tokens, weight, bias)
    assert (outputs[:2] - expected[:2]).norm(dim=1).div(expected[:2].norm(dim=1)).max() < 0.02
    assert outputs[2].isnan().all()


def test_int8_sums_of_the_largest_bytes_do_not_saturate() -> None:
    """Neighbouring inputs at the end of the range overflow the 16 bits in which processors without VNNI add pairs."""
    weight, tokens = torch.full((64, 256), 0.5), torch.full((20, 256), 3.0)
    outputs = Int8Linear(weight, torch.zeros(64))(tokens)
    torch.testing.assert_close(outputs.float(), tokens @ weight.T, rtol=0.01, atol=0)


def test_int8_of_zeros_is_the_bias() -> None:
    bias = torch.arange(4.0)
    assert Int8Linear(torch.zeros(4, WIDTH), bias)(torch.zeros(2, WIDTH)).tolist() == [bias.tolist()] * 2


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", [4, 7])
def test_patches_are_the_convolution_s(side: int, bias: bool) -> None:
    torch.manual_seed(3)
    convolution = nn.Conv2d(3, 10, side, side, bias=bias).requires_grad_(False)
    pixels = torch.randn(2, 3, side * 3, side * 5)
    fused = fused_patches(convolution, "fp32")
    assert isinstance(fused, FusedPatches)
    torch.testing.assert_close(fused(pixels), convolution(pixels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"stride": 4, "padding": 1}, {"stride": 4, "groups": 3}, {"stride": 4, "dilation": 2}]
)
def test_a_convolution_that_does_more_is_left_alone(options: dict[str, Any]) -> None:
    convolution = nn.Conv2d(3, 6, 4, **options)
    assert fused_patches(convolution, "fp32") is convolution


@pytest.mark.parametrize("change", ["normalised queries", "tanh approximation", "unmerged adapter"])
def test_blocks_with_options_unknown_to_us_are_left_alone(change: str, tokens: Tensor) -> None:
    vit: Any = nn.ModuleList(timm_blocks(qk_norm=change == "normalised queries")).eval()
    if change == "tanh approximation":
        for block in vit:
            block.mlp.act = nn.GELU(approximate="tanh")
    if change == "unmerged adapter":
        from peft.tuners.lora import Linear, LoraConfig

        for block in vit:
            block.attn.qkv = Linear(block.attn.qkv, "default", LoraConfig(r=2), r=2)
    expected = through(vit, tokens)
    assert optimize_blocks(vit, "fp32") == 0
    assert not any(isinstance(block, FusedBlock) for block in vit)
    torch.testing.assert_close(through(vit, tokens), expected)
