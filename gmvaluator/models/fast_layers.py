"""Transformer blocks fused for inference, whichever package built them.

`optimize_blocks` replaces the blocks of open_clip, timm and DINO (dreamsim's copy) in place by `FusedBlock`: PyTorch's
scaled dot-product attention, layer scale folded into the weights, and on a CPU oneDNN's linear layers with packed
weights and the activation inside. `folding.fold` does the same for convolutions.

The layers call private operators of PyTorch (torch.ops.mkldnn, torch.ops.onednn), because its public ones neither pack
weights nor fuse activations, and torch.compile is slower (docs/results/model-speed.md).
tests/contract/models/test_private_operators.py says what to check at a new release of PyTorch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16}
"""Type in which matrices are multiplied, by the identity's precision; in int8 the linear layers of blocks use bytes."""

Linear = tuple[Tensor, Tensor]
"""Weight (O, I) and bias (O,)."""

_HAS_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_QUICK_GELU_SLOPE = 1.702


def onednn_computes(dtype: torch.dtype) -> bool:
    """Return True if oneDNN has kernels for `dtype` on this processor; for bfloat16 they need AVX-512 or the like."""
    return _HAS_ONEDNN and (dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())


def optimize_blocks(blocks: nn.ModuleList | nn.Sequential, precision: str, first_token_only: bool = False) -> int:
    """Replace each known block in place, and return the number replaced. Other blocks stay unchanged.

    blocks: in eval mode, on their device, with adapters such as LoRA merged; they cannot be moved afterwards.
    precision: a key of `DTYPES`. first_token_only: only token 0 of the last block's output is read, so the last block
    computes no other.
    """
    replaced = 0
    for number, block in enumerate(blocks):
        weights = read_block(block)
        if weights is not None:
            last = number == len(blocks) - 1
            blocks[number] = FusedBlock(weights, precision, first_token_only and last)
            replaced += 1
    return replaced


def fused_patches(convolution: nn.Conv2d, precision: str) -> nn.Module:
    """Return `FusedPatches` of a convolution that cuts an image into whole squares; another one unchanged."""
    side = convolution.kernel_size[0]
    squares = convolution.kernel_size == convolution.stride == (side, side)
    plain = convolution.padding in ((0, 0), "valid") and convolution.dilation == (1, 1) and convolution.groups == 1
    return FusedPatches(convolution, precision) if squares and plain else convolution


class FusedBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). The sum stays float32; matrices are multiplied in `precision`."""

    def __init__(self, block: BlockWeights, precision: str, first_token_only: bool) -> None:
        super().__init__()
        self.heads = block.heads
        self.first_token_only = first_token_only
        self.norm_1, self.norm_2 = _float32_norm(block.norm_1), _float32_norm(block.norm_2)
        hidden, output = block.hidden, block.output
        if block.quick_gelu:
            # x * sigmoid(1.702 x) is swish(1.702 x) / 1.702, and oneDNN fuses swish: the slope moves into the weights.
            hidden = (hidden[0] * _QUICK_GELU_SLOPE, hidden[1] * _QUICK_GELU_SLOPE)
            output = (output[0] / _QUICK_GELU_SLOPE, output[1])
        self.qkv = _fused_linear(block.qkv, precision)
        self.projection = _fused_linear(block.projection, precision)
        self.hidden = _fused_linear(hidden, precision, "swish" if block.quick_gelu else "gelu")
        self.output = _fused_linear(output, precision)

    def forward(self, tokens: Tensor, *_: Any, **__: Any) -> Tensor:
        """Map (B, N, C) float32 to the same, or to (B, 1, C) if `first_token_only`. Masks are ignored."""
        attended = self._attention(self.norm_1(tokens))
        if self.first_token_only:
            tokens = tokens[:, :1]
        tokens = tokens + self.projection(attended)
        outputs: Tensor = tokens + self.output(self.hidden(self.norm_2(tokens)))
        return outputs

    def _attention(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.first_token_only:
            query = query[:, :, :1]
        attended = functional.scaled_dot_product_attention(query, key, value)
        return attended.transpose(1, 2).reshape(batch, -1, width)


class FusedPatches(nn.Module):
    """A convolution whose patches neither overlap nor leave a gap, computed as one matrix product.

    (B, 3, H, W) of any floating type to (B, O, H / P, W / P) float32, like the convolution.
    """

    def __init__(self, convolution: nn.Conv2d, precision: str) -> None:
        super().__init__()
        self.side = convolution.kernel_size[0]
        self.linear = FusedLinear(convolution.weight.flatten(1), convolution.bias, DTYPES[precision])

    def forward(self, pixels: Tensor) -> Tensor:
        batch, channels, height, width = pixels.shape
        rows, columns = height // self.side, width // self.side
        patches = pixels.view(batch, channels, rows, self.side, columns, self.side).permute(0, 2, 4, 1, 3, 5)
        outputs: Tensor = self.linear(patches.reshape(batch, rows * columns, -1)).float()
        return outputs.transpose(1, 2).reshape(batch, -1, rows, columns)


class FusedLinear(nn.Module):
    """A linear layer, followed by an activation if `activation` is "gelu" or "swish".

    (..., I) of any floating type to (..., O) of `dtype`. On a CPU oneDNN packs the weights, so it cannot be moved
    afterwards.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, activation: str = "none") -> None:
        super().__init__()
        self.activation = activation
        self.dtype = dtype
        self.bias = None if bias is None else bias.detach().to(dtype, copy=True)
        self.packed = weight.is_cpu and onednn_computes(dtype)
        weight = weight.detach().to(dtype, copy=True)
        # A packed tensor has a layout that only oneDNN reads.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None) if self.packed else weight

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs.to(self.dtype)
        if self.packed:
            which_gelu = "none" if self.activation == "gelu" else ""  # The exact one, not its tanh approximation.
            outputs: Tensor = torch.ops.mkldnn._linear_pointwise(
                inputs, self.weight, self.bias, self.activation, [], which_gelu
            )
            return outputs
        return _activated(functional.linear(inputs, self.weight, self.bias), self.activation)


_LARGEST = 127
"""Largest absolute value of a rounded weight."""


@functools.cache
def _largest_input() -> int:
    """Return the largest absolute value of a rounded input: 127, or 63 on processors whose sums of bytes saturate.

    Without VNNI, oneDNN adds two products in 16 bits, which 2 * 255 * 127 exceeds and 2 * 127 * 127 does not.
    """
    rows, weight = torch.full((16, 64), 2 * _LARGEST, dtype=torch.uint8), torch.full((64, 64), _LARGEST)
    packed = torch.ops.onednn.qlinear_prepack(weight.to(torch.int8), None)
    sums = _byte_sums(rows, 0, packed, torch.ones(64), torch.zeros(64, dtype=torch.int64), torch.float32)
    return _LARGEST if bool((sums == 64 * 2 * _LARGEST * _LARGEST).all()) else _LARGEST // 2


def _byte_sums(
    rows: Tensor, zero_point: int, packed: Tensor, scales: Tensor, zero_points: Tensor, dtype: torch.dtype
) -> Tensor:
    """Multiply unsigned bytes with packed weights: (N, I) to (N, O) of `dtype`, scaled by each output's scale."""
    sums: Tensor = torch.ops.onednn.qlinear_pointwise(
        rows,
        1.0,  # Input scale: each row has its own, which the caller multiplies in.
        zero_point,
        packed,
        scales,
        zero_points,
        None,
        1.0,
        0,
        dtype,
        "none",
        [],
        "",
    )
    return sums


class Int8Linear(nn.Module):
    """A linear layer in eight bits for CPUs, followed by an activation if `activation` is "gelu" or "swish".

    (..., I) of any floating type to (..., O) bfloat16. oneDNN packs the weights, so it cannot be moved afterwards.
    With VNNI, oneDNN multiplies bytes twice as fast as bf16; without, inputs are rounded to seven bits.

    Weights are rounded once, each output's row by its own largest value (symmetric). Inputs are rounded in each call,
    each token by its own largest value, so a row's result does not depend on the rest of the batch. Sums are 32-bit
    integers; only the two roundings lose precision. Scheme: Dettmers et al. 2022, arXiv 2208.07339, without its
    outliers.
    """

    def __init__(self, weight: Tensor, bias: Tensor, activation: str = "none") -> None:
        """Round and pack the weights; weight: (O, I), bias: (O,), both on the CPU."""
        super().__init__()
        self.activation = activation
        self.bias = bias.detach().to(torch.bfloat16, copy=True)
        weight = weight.detach().float()
        self.scales = _largest(weight).squeeze(1) / _LARGEST
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zero_points = torch.zeros(len(weight), dtype=torch.int64)
        self.largest_input = _largest_input()
        # Without AVX-512 oneDNN writes sums as bfloat16 by its reference code only, hundreds of times slower.
        self.sums_dtype = torch.bfloat16 if onednn_computes(torch.bfloat16) else torch.float32

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        largest = _largest(rows)
        # Inputs are unsigned: oneDNN has no fast kernel for signed bytes without AMX. By way of int32: PyTorch's
        # conversion of floats to unsigned bytes is several times slower.
        offset = self.largest_input + 1
        rounded = (rows * (self.largest_input / largest)).add_(offset + 0.5).to(torch.int32).to(torch.uint8)
        sums = _byte_sums(rounded, offset, self.packed, self.scales, self.zero_points, self.sums_dtype)
        scales = (largest / self.largest_input).to(torch.bfloat16)
        outputs = torch.addcmul(self.bias, sums.to(torch.bfloat16), scales)
        return _activated(outputs, self.activation).view(*inputs.shape[:-1], -1)


def _largest(rows: Tensor) -> Tensor:
    """Return the largest absolute value of each row: (N, I) to (N, 1), above zero.

    NaN stays NaN, and makes the row's outputs NaN.
    """
    return rows.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def _activated(outputs: Tensor, activation: str) -> Tensor:
    if activation == "gelu":
        return functional.gelu(outputs)
    return functional.silu(outputs) if activation == "swish" else outputs


def _fused_linear(linear: Linear, precision: str, activation: str = "none") -> nn.Module:
    if precision == "int8":
        return Int8Linear(*linear, activation)
    return FusedLinear(*linear, DTYPES[precision], activation)


def _float32_norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    """Return a float32 copy of a norm of any precision."""
    copy = nn.LayerNorm(norm.normalized_shape, norm.eps, device=norm.weight.device)
    copy.load_state_dict(norm.state_dict())
    return copy.eval().requires_grad_(False)


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """The weights of a pre-norm block. qkv: queries, keys and values above each other, (3 C, C).

    quick_gelu: the MLP's activation is x * sigmoid(1.702 x) instead of the exact GELU.
    """

    heads: int
    norm_1: nn.LayerNorm
    qkv: Linear
    projection: Linear
    norm_2: nn.LayerNorm
    hidden: Linear
    output: Linear
    quick_gelu: bool


def read_block(block: nn.Module) -> BlockWeights | None:
    """Return the weights of a plain block of open_clip, timm or DINO; None for another kind or an unknown option."""
    attention = getattr(block, "attn", None)
    if isinstance(attention, nn.MultiheadAttention):
        return _read_open_clip(block, attention)
    if _is_linear(attention, "qkv", "proj") and _is_linear(getattr(block, "mlp", None), "fc1", "fc2"):
        return _read_timm(block, attention)
    return None


def _read_open_clip(block: Any, attention: nn.MultiheadAttention) -> BlockWeights | None:
    quick_gelu = _is_quick_gelu(block.mlp.gelu)
    fused = attention.in_proj_weight is not None and attention.in_proj_bias is not None
    # `ln_1_kv`: a block of cross-attention.
    if quick_gelu is None or not fused or not attention.batch_first or hasattr(block, "ln_1_kv"):
        return None
    return BlockWeights(
        heads=attention.num_heads,
        norm_1=block.ln_1,
        qkv=(attention.in_proj_weight, attention.in_proj_bias),
        projection=_scaled(attention.out_proj, getattr(block, "ls_1", None)),
        norm_2=block.ln_2,
        hidden=_weight_and_bias(block.mlp.c_fc),
        output=_scaled(block.mlp.c_proj, getattr(block, "ls_2", None)),
        quick_gelu=quick_gelu,
    )


def _read_timm(block: Any, attention: Any) -> BlockWeights | None:
    """Read timm's Block, or DINO's, from which timm's descends."""
    quick_gelu = _is_quick_gelu(block.mlp.act)
    # Options of timm's blocks that would compute something; where they are off they are absent, None or Identity.
    extras = [getattr(attention, name, None) for name in ("q_norm", "k_norm", "norm")]
    extras += [getattr(block.mlp, "norm", None), getattr(block, "drop_path", None), getattr(block, "drop_path1", None)]
    if quick_gelu is None or not all(isinstance(extra, nn.Identity | None) for extra in extras):
        return None
    return BlockWeights(
        heads=attention.num_heads,
        norm_1=block.norm1,
        qkv=_weight_and_bias(attention.qkv),
        projection=_scaled(attention.proj, getattr(block, "ls1", None)),
        norm_2=block.norm2,
        hidden=_weight_and_bias(block.mlp.fc1),
        output=_scaled(block.mlp.fc2, getattr(block, "ls2", None)),
        quick_gelu=quick_gelu,
    )


def _is_linear(owner: object, *names: str) -> bool:
    """Return True if these attributes are nn.Linear themselves, and not wrapped, as unmerged LoRA layers are."""
    return all(type(getattr(owner, name, None)).__name__ in ("Linear", "NonDynamicallyQuantizableLinear")
               and isinstance(getattr(owner, name), nn.Linear) for name in names)  # fmt: skip


def _is_quick_gelu(activation: nn.Module) -> bool | None:
    """Return True for QuickGELU, False for the exact GELU, None for another activation."""
    if isinstance(activation, nn.GELU):
        return False if activation.approximate == "none" else None
    return True if type(activation).__name__ == "QuickGELU" else None


def _weight_and_bias(linear: nn.Linear) -> Linear:
    bias = linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
    return linear.weight.detach(), bias.detach()


def _scaled(linear: nn.Linear, scale: Any) -> Linear:
    """Return a linear layer's weights with the layer scale after it, if there is one, folded in."""
    weight, bias = _weight_and_bias(linear)
    gamma = getattr(scale, "gamma", None)
    return (weight, bias) if gamma is None else (weight * gamma.detach()[:, None], bias * gamma.detach())
