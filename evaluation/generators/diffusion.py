"""A small diffusion model: DDPM's training (Ho et al., 2020), DDIM's sampling (Song et al., 2021)."""

from __future__ import annotations

import copy
import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluation.generators.sampling import Images, Progress, batches, silent, to_unit

_RATE = 2e-3
_AVERAGE = 0.99
_STEPS = 40
_WIDTH = 24
_FREQUENCIES = 16
_MOST_NOISE = 0.98


class _Block(nn.Module):
    """Two convolutions with a shift by the time between them, and a way past both."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(4 * _FREQUENCIES, outputs)
        self.norm = nn.GroupNorm(8, outputs)
        self.past = nn.Conv2d(inputs, outputs, 1)

    def forward(self, values: Tensor, time: Tensor) -> Tensor:
        hidden = functional.silu(self.norm(self.first(values)) + self.time(time)[:, :, None, None])
        summed: Tensor = functional.silu(self.second(hidden)) + self.past(values)
        return summed


class Diffusion(nn.Module):
    """A U-Net at 28, 14 and 7 px that names the noise in a picture; time runs from 0 (clean) to 1 (noise)."""

    def __init__(self) -> None:
        super().__init__()
        wide, wider, widest = _WIDTH, 2 * _WIDTH, 4 * _WIDTH
        self.embed = nn.Sequential(nn.Linear(2 * _FREQUENCIES, 4 * _FREQUENCIES), nn.SiLU())
        self.down = nn.ModuleList([_Block(1, wide), _Block(wide, wider)])
        self.middle = _Block(wider, widest)
        self.up = nn.ModuleList([_Block(widest + wider, wider), _Block(wider + wide, wide)])
        self.last = nn.Conv2d(wide, 1, 3, padding=1)

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        """The noise, (B, 1, 28, 28), in noisy pictures of the same shape at times (B,)."""
        frequencies = torch.exp(torch.linspace(0, math.log(200), _FREQUENCIES))
        angles = time[:, None] * frequencies
        embedded = self.embed(torch.cat([angles.sin(), angles.cos()], dim=1))
        fine = self.down[0](noisy, embedded)
        coarse = self.down[1](functional.avg_pool2d(fine, 2), embedded)
        hidden = self.middle(functional.avg_pool2d(coarse, 2), embedded)
        for block, kept in zip(self.up, (coarse, fine), strict=True):
            hidden = block(torch.cat([functional.interpolate(hidden, scale_factor=2.0), kept], dim=1), embedded)
        named: Tensor = self.last(hidden)
        return named

    def loss(self, pictures: Tensor, random: torch.Generator) -> Tensor:
        """Mean squared error of the noise named, at random times; pictures: (B, 1, 28, 28) in [0, 1]."""
        time = torch.rand(len(pictures), generator=random) * _MOST_NOISE
        noise = torch.randn(pictures.shape, generator=random)
        signal, spread = (part[:, None, None, None] for part in _mixture(time))
        return functional.mse_loss(self(signal * (2 * pictures - 1) + spread * noise, time), noise)

    @torch.no_grad()
    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """As `Sampler.draw`: 40 deterministic steps from noise."""
        self.eval()
        values = torch.randn((count, 1, 28, 28), generator=random)
        times = torch.linspace(_MOST_NOISE, 0, _STEPS + 1)
        for now, then in itertools.pairwise(times):
            noise = self(values, now.expand(count))
            signal, spread = _mixture(now)
            clean = ((values - spread * noise) / signal).clamp(-1, 1)
            noise = (values - signal * clean) / spread
            signal, spread = _mixture(then)
            values = signal * clean + spread * noise
        return (values.clamp(-1, 1) + 1) / 2


def _mixture(time: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of picture and of noise at `time`; their squares sum to 1."""
    return torch.cos(time * math.pi / 2), torch.sin(time * math.pi / 2)


def train_diffusion(images: Images, seed: int, epochs: int = 12, progress: Progress = silent) -> Diffusion:
    """A diffusion model trained on (N, 28, 28) uint8 pictures, its weights averaged over the last steps.

    The global random state is left as it was.
    """
    pictures = to_unit(images)
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Diffusion()
    average = copy.deepcopy(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=_RATE)
    model.train()
    steps = 0
    for epoch in range(epochs):
        for batch in batches(pictures, random):
            optimiser.zero_grad()
            model.loss(batch, random).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            _follow(average, model, min(_AVERAGE, steps / (steps + 10)))
            steps += 1
        progress(epoch + 1, epochs)
    return average.eval()


@torch.no_grad()
def _follow(average: Diffusion, model: Diffusion, kept: float) -> None:
    """kept: share of what the average was; short runs would otherwise keep what they began with."""
    for mean, newest in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(newest, 1 - kept)
