"""Transformer blocks made ready for inference, whichever package built them.

A block of open_clip, timm or DINO (as dreamsim has it) becomes one `ReadyBlock`: PyTorch's scaled dot-product
attention, layer scale folded into the weights, and on a CPU oneDNN's linear layers with packed weights and the
activation inside. The last block computes nothing for tokens that nobody reads. `hasten` replaces blocks in place, as
`folding.fold` does with convolutions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gmvaluator.models.block_weights import BlockWeights, Linear, read_block
from gmvaluator.models.int8 import Int8Linear

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.bfloat16}
"""Precision of a profile's identity to what matrices are multiplied in, but for the linear layers of blocks in int8."""

_HAS_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
_QUICK_GELU_SLOPE = 1.702


def hasten(blocks: nn.ModuleList | nn.Sequential, precision: str, first_token_only: bool = False) -> int:
    """Replace each block that is known, in place; answers how many. The others stay as they were.

    blocks: in eval mode, on their device, with adapters such as LoRA merged; they cannot be moved afterwards.
    precision: a key of `DTYPES`. first_token_only: of the last block only token 0 is read, so only it is computed.
    """
    replaced = 0
    for number, block in enumerate(blocks):
        weights = read_block(block)
        if weights is not None:
            last = number == len(blocks) - 1
            blocks[number] = ReadyBlock(weights, precision, first_token_only and last)
            replaced += 1
    return replaced


class ReadyLinear(nn.Module):
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


class ReadyPatches(nn.Module):
    """A convolution whose patches neither overlap nor leave a gap, as the matrix product that it is.

    (B, 3, H, W) of any floating type to (B, O, H / P, W / P) float32, as the convolution answers.
    """

    def __init__(self, convolution: nn.Conv2d, precision: str) -> None:
        super().__init__()
        self.side = convolution.kernel_size[0]
        self.linear = ReadyLinear(convolution.weight.flatten(1), convolution.bias, DTYPES[precision])

    def forward(self, pixels: Tensor) -> Tensor:
        batch, channels, height, width = pixels.shape
        rows, columns = height // self.side, width // self.side
        patches = pixels.view(batch, channels, rows, self.side, columns, self.side).permute(0, 2, 4, 1, 3, 5)
        outputs: Tensor = self.linear(patches.reshape(batch, rows * columns, -1)).float()
        return outputs.transpose(1, 2).reshape(batch, -1, rows, columns)


def ready_patches(convolution: nn.Conv2d, precision: str) -> nn.Module:
    """`ReadyPatches` of a convolution that cuts an image into whole squares; another one as it is."""
    side = convolution.kernel_size[0]
    squares = convolution.kernel_size == convolution.stride == (side, side)
    plain = convolution.padding in ((0, 0), "valid") and convolution.dilation == (1, 1) and convolution.groups == 1
    return ReadyPatches(convolution, precision) if squares and plain else convolution


class ReadyBlock(nn.Module):
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
    return ReadyLinear(*linear, DTYPES[precision], activation)


def _ready_norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    """A float32 copy, whatever the original computed in."""
    ready = nn.LayerNorm(norm.normalized_shape, norm.eps, device=norm.weight.device)
    ready.load_state_dict(norm.state_dict())
    return ready.eval().requires_grad_(False)
