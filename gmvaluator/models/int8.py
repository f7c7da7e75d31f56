"""Linear layers in eight bits, for CPUs: oneDNN multiplies bytes, as VNNI does twice as fast as bf16.

Weights are rounded once, each output's row by its own largest value (symmetric). Inputs are rounded as they come, each
token by its own largest value, so a row's result does not depend on what else is in the batch. Sums are 32-bit
integers; only the two roundings lose anything. Scheme: Dettmers et al. 2022, arXiv 2208.07339, without its outliers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

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
