"""The network of the diffusion model: residual dense layers that are told the time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_WIDTH = 256
_BLOCKS = 3
_FREQUENCIES = 32
_TIME = 128
_FASTEST = 200


class Denoiser(nn.Module):
    """Noisy numbers and a time to the velocity that parts noise from numbers."""

    def __init__(self, size: int) -> None:
        """size: L, how many numbers."""
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(_FASTEST), _FREQUENCIES)))
        self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, _TIME), nn.SiLU())
        self.inward = nn.Linear(size, _WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(_BLOCKS))
        self.outward = nn.Sequential(nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, size))

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        """(B, L) at times (B,) in [0, 1] to velocities (B, L)."""
        angles = time[:, None] * self.get_buffer("frequencies")
        told = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        hidden = self.inward(noisy)
        for block in self.blocks:
            hidden = block(hidden, told)
        velocity: Tensor = self.outward(hidden)
        return velocity


class _Block(nn.Module):
    """Adds to what comes in; nothing at first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_WIDTH)
        self.first, self.told, self.second = (
            nn.Linear(_WIDTH, _WIDTH),
            nn.Linear(_TIME, _WIDTH),
            nn.Linear(_WIDTH, _WIDTH),
        )
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, hidden: Tensor, told: Tensor) -> Tensor:
        """(B, WIDTH) and (B, TIME) to (B, WIDTH)."""
        changed: Tensor = self.second(functional.silu(self.first(self.norm(hidden)) + self.told(told)))
        return hidden + changed
