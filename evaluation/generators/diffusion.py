"""A small latent diffusion model and its denoising network.

Latent diffusion (Rombach et al., 2022) with DDPM (Ho et al., 2020) on the latents of a VAE, trained on velocities
(Salimans and Ho, 2022) and sampled in fewer steps (Song et al., 2021, η = 1). Trained on pixels for the same time it
drew no legible digits. The network is made of residual dense layers conditioned on the time step.
"""

from __future__ import annotations

import copy
import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluation.generators.sampling import Images, Progress, batches, silent, to_unit
from evaluation.generators.vae import LATENT, Vae, train_vae

_WIDTH = 256
_BLOCKS = 3
_FREQUENCIES = 32
_TIME = 128
_FASTEST = 200


class Denoiser(nn.Module):
    """A network that predicts the velocity, which separates noise from latents, from noisy latents and a time."""

    def __init__(self, size: int) -> None:
        """size: L, the number of latents."""
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(_FASTEST), _FREQUENCIES)))
        self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, _TIME), nn.SiLU())
        self.inward = nn.Linear(size, _WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(_BLOCKS))
        self.outward = nn.Sequential(nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, size))

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        """Map noisy latents (B, L) at times (B,) in [0, 1] to velocities (B, L)."""
        angles = time[:, None] * self.get_buffer("frequencies")
        time_embedding = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        hidden = self.inward(noisy)
        for block in self.blocks:
            hidden = block(hidden, time_embedding)
        velocity: Tensor = self.outward(hidden)
        return velocity


class _Block(nn.Module):
    """A residual block; it adds nothing before training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(_WIDTH)
        self.first, self.time_embedding, self.second = (
            nn.Linear(_WIDTH, _WIDTH),
            nn.Linear(_TIME, _WIDTH),
            nn.Linear(_WIDTH, _WIDTH),
        )
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, hidden: Tensor, time_embedding: Tensor) -> Tensor:
        """Map (B, WIDTH) and (B, TIME) to (B, WIDTH)."""
        changed: Tensor = self.second(
            functional.silu(self.first(self.norm(hidden)) + self.time_embedding(time_embedding))
        )
        return hidden + changed


_RATE = 2e-3
_BATCH = 512
_WARMING = 0.05
_AVERAGE = 0.998
_STEPS = 100
_PASSES_PER_EPOCH = 12


class Diffusion(nn.Module):
    """A VAE and a network that denoises its latents; time runs from 0 (clean) to 1 (noise)."""

    def __init__(self, vae: Vae, latents: Tensor) -> None:
        """latents: (N, LATENT) means of the pictures, standardised by their own mean and deviation."""
        super().__init__()
        self.vae = vae
        self.register_buffer("centre", latents.mean(dim=0))
        self.register_buffer("spread", latents.std(dim=0) + 1e-3)
        self.denoiser = Denoiser(LATENT)

    def standardised(self, latents: Tensor) -> Tensor:
        """Return (N, LATENT) latents with mean 0 and deviation 1."""
        return (latents - self.get_buffer("centre")) / self.get_buffer("spread")

    def loss(self, latents: Tensor, random: torch.Generator) -> Tensor:
        """Return the mean squared error of the velocity at random times; latents: (B, LATENT), standardised."""
        time = torch.rand(len(latents), generator=random)
        noise = torch.randn(latents.shape, generator=random)
        signal, spread = (part[:, None] for part in _mixture(time))
        velocity = signal * noise - spread * latents
        return functional.mse_loss(self.denoiser(signal * latents + spread * noise, time), velocity)

    @torch.no_grad()
    def draw(self, count: int, random: torch.Generator) -> Tensor:
        """Implement `Sampler.draw`: 100 steps from noise, each with new noise, then the VAE's decoder."""
        self.eval()
        values = torch.randn((count, LATENT), generator=random)
        for now, then in itertools.pairwise(torch.linspace(1, 0, _STEPS + 1)):
            velocity = self.denoiser(values, now.expand(count))
            signal, spread = _mixture(now)
            clean, noise = signal * values - spread * velocity, spread * values + signal * velocity
            values = _step(clean, noise, now, then, random)
        latents = values * self.get_buffer("spread") + self.get_buffer("centre")
        return torch.sigmoid(self.vae.decoder(latents))


def _step(clean: Tensor, noise: Tensor, now: Tensor, then: Tensor, random: torch.Generator) -> Tensor:
    """Return DDPM's sample for time `then`: part of the noise, and the errors in it, are replaced by new noise."""
    (signal, spread), (next_signal, next_spread) = _mixture(now), _mixture(then)
    anew = (next_spread / spread) * (1 - (signal / next_signal) ** 2).clamp(min=0).sqrt()
    kept = (next_spread**2 - anew**2).clamp(min=0).sqrt()
    return next_signal * clean + kept * noise + anew * torch.randn(clean.shape, generator=random)


def _mixture(time: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights of picture and noise at `time`; their squares sum to 1."""
    return torch.cos(time * math.pi / 2), torch.sin(time * math.pi / 2)


def train_diffusion(images: Images, seed: int, epochs: int = 20, progress: Progress = silent) -> Diffusion:
    """Train a diffusion model and its own VAE on (N, 28, 28) uint8 pictures; the VAE takes half of the progress.

    The global random state is left unchanged.
    """
    vae = train_vae(images, seed, epochs, lambda done, _: progress(done, 2 * epochs))
    return diffuse(vae, images, seed, epochs, lambda done, _: progress(epochs + done, 2 * epochs))


def diffuse(vae: Vae, images: Images, seed: int, epochs: int = 20, progress: Progress = silent) -> Diffusion:
    """Train a diffusion model on the latents of a trained VAE; its weights are averaged over the last steps."""
    random = torch.Generator().manual_seed(seed)
    means, _ = vae.encode(to_unit(images))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Diffusion(vae, means)
    latents = model.standardised(means)
    average = copy.deepcopy(model.denoiser)
    optimiser = torch.optim.AdamW(model.denoiser.parameters(), lr=_RATE)
    steps = epochs * _PASSES_PER_EPOCH * math.ceil(len(latents) / _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, steps, pct_start=_WARMING)
    for epoch in range(epochs):
        for batch in itertools.chain.from_iterable(batches(latents, random, _BATCH) for _ in range(_PASSES_PER_EPOCH)):
            optimiser.zero_grad()
            model.loss(batch, random).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            _follow(average, model.denoiser, schedule.last_epoch)
            schedule.step()
        progress(epoch + 1, epochs)
    model.denoiser = average
    return model.eval()


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, steps: int) -> None:
    """Update the average, with less weight on the first steps, so that short runs are not held to their start."""
    kept = min(_AVERAGE, steps / (steps + 10))
    for mean, newest in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(newest, 1 - kept)
