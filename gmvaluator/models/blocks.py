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

from gmvaluator.models.block_weights import BlockWeights, read_block

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Precision of a profile's identity: what matrices are multiplied in."""

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
            blocks[number] = ReadyBlock(weights, DTYPES[precision], first_token_only and last)
            replaced += 1
    return replaced


class ReadyLinear(nn.Module):
    """A linear layer, with an activation behind it if `activation` is "gelu" or "swish".

    (..., I) to (..., O), both of `dtype`. On a CPU oneDNN packs the weights, so it cannot be moved afterwards.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, activation: str = "none") -> None:
        super().__init__()
        self.activation = activation
        self.bias = None if bias is None else bias.detach().to(dtype, copy=True)
        self.packed = _HAS_ONEDNN and weight.is_cpu
        weight = weight.detach().to(dtype, copy=True)
        # Packed tensors have a layout that only oneDNN reads.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None) if self.packed else weight

    def forward(self, inputs: Tensor) -> Tensor:
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


class ReadyBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). The sum stays float32; matrices are multiplied in `dtype`."""

    def __init__(self, block: BlockWeights, dtype: torch.dtype, first_token_only: bool) -> None:
        super().__init__()
        self.heads = block.heads
        self.dtype = dtype
        self.first_token_only = first_token_only
        self.norm_1, self.norm_2 = _ready_norm(block.norm_1), _ready_norm(block.norm_2)
        hidden, output = block.hidden, block.output
        if block.quick_gelu:  # x * sigmoid(1.702 x) is swish(1.702 x) / 1.702: the slope moves into the weights.
            hidden = (hidden[0] * _QUICK_GELU_SLOPE, hidden[1] * _QUICK_GELU_SLOPE)
            output = (output[0] / _QUICK_GELU_SLOPE, output[1])
        self.qkv = ReadyLinear(*block.qkv, dtype)
        self.projection = ReadyLinear(*block.projection, dtype)
        self.hidden = ReadyLinear(*hidden, dtype, "swish" if block.quick_gelu else "gelu")
        self.output = ReadyLinear(*output, dtype)

    def forward(self, tokens: Tensor, *_: Any, **__: Any) -> Tensor:
        """(B, N, C) float32 to the same, or to (B, 1, C) if `first_token_only`. Masks are not known here."""
        attended = self._attention(self.norm_1(tokens).to(self.dtype))
        if self.first_token_only:
            tokens = tokens[:, :1]
        tokens = tokens + self.projection(attended)
        outputs: Tensor = tokens + self.output(self.hidden(self.norm_2(tokens).to(self.dtype)))
        return outputs

    def _attention(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        qkv = self.qkv(tokens).view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.first_token_only:
            query = query[:, :, :1]
        attended = functional.scaled_dot_product_attention(query, key, value)
        return attended.transpose(1, 2).reshape(batch, -1, width)


def _ready_norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    """A float32 copy, whatever the original computed in."""
    ready = nn.LayerNorm(norm.normalized_shape, norm.eps, device=norm.weight.device)
    ready.load_state_dict(norm.state_dict())
    return ready.eval().requires_grad_(False)
