"""Transformer blocks made ready for inference, whichever package built them.

A block of open_clip, timm or DINO (as dreamsim has it) becomes one `ReadyBlock`: PyTorch's scaled dot-product
attention, layer scale folded into the weights, and on a CPU oneDNN's linear layers with packed weights and the
activation inside. The last block computes nothing for tokens that nobody reads. `hasten` replaces blocks in place, as
`folding.fold` does with convolutions.

The weights of a transformer block, found in whichever package's module holds them.

Linear layers in eight bits, for CPUs: oneDNN multiplies bytes, as VNNI does twice as fast as bf16.

Weights are rounded once, each output's row by its own largest value (symmetric). Inputs are rounded as they come, each
token by its own largest value, so a row's result does not depend on what else is in the batch. Sums are 32-bit
integers; only the two roundings lose anything. Scheme: Dettmers et al. 2022, arXiv 2208.07339, without its outliers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Linear = tuple[Tensor, Tensor]
"""Weight (O, I) and bias (O,)."""


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """A pre-norm block. qkv: queries, keys and values above each other, (3 C, C).

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
    """Weights of a plain block of open_clip, timm or DINO; None if it is of another kind or has an option we lack."""
    attention = getattr(block, "attn", None)
    if isinstance(attention, nn.MultiheadAttention):
        return _of_open_clip(block, attention)
    if _is_linear(attention, "qkv", "proj") and _is_linear(getattr(block, "mlp", None), "fc1", "fc2"):
        return _of_timm(block, attention)
    return None


def _of_open_clip(block: Any, attention: nn.MultiheadAttention) -> BlockWeights | None:
    activation = _quick_gelu(block.mlp.gelu)
    fused = attention.in_proj_weight is not None and attention.in_proj_bias is not None
    if activation is None or not fused or not attention.batch_first or hasattr(block, "ln_1_kv"):
        return None
    return BlockWeights(
        heads=attention.num_heads,
        norm_1=block.ln_1,
        qkv=(attention.in_proj_weight, attention.in_proj_bias),
        projection=_scaled(attention.out_proj, getattr(block, "ls_1", None)),
        norm_2=block.ln_2,
        hidden=_pair(block.mlp.c_fc),
        output=_scaled(block.mlp.c_proj, getattr(block, "ls_2", None)),
        quick_gelu=activation,
    )


def _of_timm(block: Any, attention: Any) -> BlockWeights | None:
    """timm's Block, and DINO's, which it descends from."""
    activation = _quick_gelu(block.mlp.act)
    extras = [getattr(attention, name, None) for name in ("q_norm", "k_norm", "norm")]
    extras += [getattr(block.mlp, "norm", None), getattr(block, "drop_path", None), getattr(block, "drop_path1", None)]
    if activation is None or not all(isinstance(extra, nn.Identity | None) for extra in extras):
        return None
    return BlockWeights(
        heads=attention.num_heads,
        norm_1=block.norm1,
        qkv=_pair(attention.qkv),
        projection=_scaled(attention.proj, getattr(block, "ls1", None)),
        norm_2=block.norm2,
        hidden=_pair(block.mlp.fc1),
        output=_scaled(block.mlp.fc2, getattr(block, "ls2", None)),
        quick_gelu=activation,
    )


def _is_linear(owner: object, *names: str) -> bool:
    """Whether these are nn.Linear themselves, and not wrapped, as unmerged LoRA layers are."""
    return all(type(getattr(owner, name, None)).__name__ in ("Linear", "NonDynamicallyQuantizableLinear")
               and isinstance(getattr(owner, name), nn.Linear) for name in names)  # fmt: skip


def _quick_gelu(activation: nn.Module) -> bool | None:
    """Whether it is QuickGELU; None if it is neither that nor the exact GELU."""
    if isinstance(activation, nn.GELU):
        return False if activation.approximate == "none" else None
    return True if type(activation).__name__ == "QuickGELU" else None


def _pair(linear: nn.Linear) -> Linear:
    bias = linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
    return linear.weight.detach(), bias.detach()


def _scaled(linear: nn.Linear, scale: Any) -> Linear:
    """A linear layer with the layer scale behind it, if there is one, folded in."""
    weight, bias = _pair(linear)
    gamma = getattr(scale, "gamma", None)
    return (weight, bias) if gamma is None else (weight * gamma.detach()[:, None], bias * gamma.detach())


_LARGEST = 127
_OFFSET = 128
"""Inputs go in as unsigned bytes: for signed ones oneDNN has no fast kernel on processors without AMX."""


class Int8Linear(nn.Module):
    """A linear layer, with an activation behind it if `activation` is "gelu" or "swish".

    (..., I) of any floating type to (..., O) bfloat16. oneDNN packs the weights, so it cannot be moved afterwards.
    """

    def __init__(self, weight: Tensor, bias: Tensor, activation: str = "none") -> None:
        """weight: (O, I), bias: (O,), both on the CPU."""
        super().__init__()
        self.activation = activation
        self.bias = bias.detach().to(torch.bfloat16, copy=True)
        weight = weight.detach().float()
        self.scales = _largest(weight).squeeze(1) / _LARGEST
        rounded = (weight / self.scales[:, None]).round().to(torch.int8)
        self.packed = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.zero_points = torch.zeros(len(weight), dtype=torch.int64)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        largest = _largest(rows)
        # By way of int32: PyTorch's conversion of floats to unsigned bytes is several times slower.
        rounded = (rows * (_LARGEST / largest)).add_(_OFFSET + 0.5).to(torch.int32).to(torch.uint8)
        sums = torch.ops.onednn.qlinear_pointwise(
            rounded,
            1.0,
            _OFFSET,
            self.packed,
            self.scales,
            self.zero_points,
            None,
            1.0,
            0,
            torch.bfloat16,
            "none",
            [],
            "",
        )
        outputs = torch.addcmul(self.bias, sums, (largest / _LARGEST).to(torch.bfloat16))
        return self._activated(outputs).view(*inputs.shape[:-1], -1)

    def _activated(self, outputs: Tensor) -> Tensor:
        if self.activation == "gelu":
            return functional.gelu(outputs)
        return functional.silu(outputs) if self.activation == "swish" else outputs


def _largest(rows: Tensor) -> Tensor:
    """(N, I) to (N, 1), above zero. NaN stays NaN, and makes the row's outputs NaN."""
    return rows.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16}
"""Precision of a profile's identity to what matrices are multiplied in, but for the linear layers of blocks in int8."""

_HAS_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_QUICK_GELU_SLOPE = 1.702


def optimize_blocks(blocks: nn.ModuleList | nn.Sequential, precision: str, first_token_only: bool = False) -> int:
    """Replace each block that is known, in place; answers how many. The others stay as they were.

    blocks: in eval mode, on their device, with adapters such as LoRA merged; they cannot be moved afterwards.
    precision: a key of `DTYPES`. first_token_only: of the last block only token 0 is read, so only it is computed.
    """
    replaced = 0
    for number, block in enumerate(blocks):
        weights = read_block(block)
        if weights is not None:
            last = number == len(blocks) - 1
            blocks[number] = FusedBlock(weights, precision, first_token_only and last)
            replaced += 1
    return replaced


class FusedLinear(nn.Module):
    """A linear layer, with an activation behind it if `activation` is "gelu" or "swish".

    (..., I) of any floating type to (..., O) of `dtype`. On a CPU oneDNN packs the weights, so it cannot be moved
    afterwards.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, activation: str = "none") -> None:
        super().__init__()
        self.activation = activation
        self.dtype = dtype
        self.bias = None if bias is None else bias.detach().to(dtype, copy=True)
        self.packed = _HAS_ONEDNN and weight.is_cpu
        weight = weight.detach().to(dtype, copy=True)
        # Packed tensors have a layout that only oneDNN reads.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None) if self.packed else weight

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs.to(self.dtype)
        if self.packed:
            which_gelu = "none" if self.activation == "gelu" else ""  # The exact one, not its tanh approximation.
            outputs: Tensor = torch.ops.mkldnn._linear_pointwise(
                inputs, self.weight, self.bias, self.activation, [], which_gelu
            )
            return outputs
        outputs = functional.linear(inputs, self.weight, self.bias)
        if self.activation == "gelu":
            return functional.gelu(outputs)
        return functional.silu(outputs) if self.activation == "swish" else outputs


class FusedPatches(nn.Module):
    """A convolution whose patches neither overlap nor leave a gap, as the matrix product that it is.

    (B, 3, H, W) of any floating type to (B, O, H / P, W / P) float32, as the convolution answers.
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


def fused_patches(convolution: nn.Conv2d, precision: str) -> nn.Module:
    """`ReadyPatches` of a convolution that cuts an image into whole squares; another one as it is."""
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
        self.norm_1, self.norm_2 = _ready_norm(block.norm_1), _ready_norm(block.norm_2)
        hidden, output = block.hidden, block.output
        if block.quick_gelu:  # x * sigmoid(1.702 x) is swish(1.702 x) / 1.702: the slope moves into the weights.
            hidden = (hidden[0] * _QUICK_GELU_SLOPE, hidden[1] * _QUICK_GELU_SLOPE)
            output = (output[0] / _QUICK_GELU_SLOPE, output[1])
        self.qkv = _ready_linear(block.qkv, precision)
        self.projection = _ready_linear(block.projection, precision)
        self.hidden = _ready_linear(hidden, precision, "swish" if block.quick_gelu else "gelu")
        self.output = _ready_linear(output, precision)

    def forward(self, tokens: Tensor, *_: Any, **__: Any) -> Tensor:
        """(B, N, C) float32 to the same, or to (B, 1, C) if `first_token_only`. Masks are not known here."""
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


def _ready_linear(linear: Linear, precision: str, activation: str = "none") -> nn.Module:
    if precision == "int8":
        return Int8Linear(*linear, activation)
    return FusedLinear(*linear, DTYPES[precision], activation)


def _ready_norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    """A float32 copy, whatever the original computed in."""
    ready = nn.LayerNorm(norm.normalized_shape, norm.eps, device=norm.weight.device)
    ready.load_state_dict(norm.state_dict())
    return ready.eval().requires_grad_(False)
