"""Adaptation of the backbone with a contrastive loss: an image near its derivatives, all other works apart.

The loss is SSCD's (arXiv 2202.10261): InfoNCE between a derivative and its work, against every training work, and an
entropy term that keeps each work away from its nearest neighbour.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluation.training.augment import change_batch, derive_batch
from evaluation.training.embedder import Embedder
from evaluation.training.validation import Validation
from gmvaluator.files import atomic_file

TEMPERATURE = 0.05
BATCH_WORKS = 96
BACKBONE_RATE = 1e-4
HEAD_RATE = 5e-5
MOMENTUM = 0.985
"""Momentum of the averaged weights, which embed the works and are kept.

Works embedded by the weights in training drift while derivatives are compared with them, and the loss rises.
"""

POOL_CHANGES = 0.3
"""Factor on the chance of a change for derivatives by the recipes."""

WARM_UP_STEPS = 30
WATCH_EVERY = 40
"""Steps between two validations, and between two checkpoints."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One training schedule: the learning rates follow a cosine that ends at `steps`; training ends at `stop`.

    entropy_weight: of the term that separates works, against 1 for recognising derivatives. recipe_share: share of
    derivatives by `recipes.KINDS`; the others are made at each step. source_px: side of the copies they are made
    from.
    """

    name: str
    seed: int
    steps: int
    stop: int
    entropy_weight: float
    recipe_share: float
    source_px: int


@dataclass(frozen=True, slots=True)
class Watch:
    """One line of the curve. loss: mean since the last line. scores: see `validation.Scores`."""

    step: int
    loss: float
    source_first: float
    credit: float
    absent_auc: float
    seconds: float


@dataclass
class Training:
    """One stage over `works` (N, 3, S, S) uint8; `resume` continues bit for bit from what `save` wrote.

    large (N, 3, L, L): the same works, from which derivatives are made. pool (N, K, 3, S, S): K derivatives of each
    by the recipes. bank (N, 512): each work's latest embedding, against which derivatives are recognised.
    """

    stage: Stage
    embedder: Embedder
    works: Tensor
    large: Tensor
    pool: Tensor
    validation: Validation
    folder: Path

    def __post_init__(self) -> None:
        self.step = 0
        self.curve: list[Watch] = []
        self.average = copy.deepcopy(self.embedder)
        self.optimiser = torch.optim.AdamW(
            [
                {"params": self.embedder.backbone_parameters(), "rate": BACKBONE_RATE},
                {"params": list(self.embedder.head.parameters()), "rate": HEAD_RATE},
            ],
            weight_decay=0.02,
            betas=(0.9, 0.98),
        )
        self.bank = self.average.embed_all(self.works)

    def run(self) -> None:
        """Train to the last step, writing a checkpoint and the curve at each watch."""
        started, first, losses = time.monotonic(), self.step, list[float]()
        for picks in self._batches():
            losses.append(self._learn(picks))
            self.step += 1
            if self.step % WATCH_EVERY == 0 or self.step == self.stage.stop:
                self._watch(sum(losses) / len(losses), started, first)
                losses.clear()

    def _batches(self) -> Iterator[Tensor]:
        """Yield the rows of `works` for each remaining step, in rounds of full batches; no work twice in a round."""
        per_round = len(self.works) // BATCH_WORKS
        while self.step < self.stage.stop:
            rng = torch.Generator().manual_seed(self.stage.seed * 1_000 + self.step // per_round)
            order = torch.randperm(len(self.works), generator=rng)
            start = self.step % per_round * BATCH_WORKS
            yield order[start : start + BATCH_WORKS]

    def _learn(self, picks: Tensor) -> float:
        rng = torch.Generator().manual_seed(self.stage.seed * 1_000_000 + self.step)
        images = self.works[picks].float() / 255
        derivatives = self._derivatives(picks, rng)
        self._set_rates()
        with torch.no_grad():
            self.bank[picks] = self.average(images * 2 - 1)
        loss = self._loss(picks, self.embedder(derivatives * 2 - 1))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.embedder.parameters(), 2.0)
        self.optimiser.step()
        self._follow()
        return float(loss.detach())

    def _derivatives(self, picks: Tensor, rng: torch.Generator) -> Tensor:
        """Make some from the large copies, and change the others, by the recipes, a little further at random."""
        count = round(len(picks) * (1 - self.stage.recipe_share))
        large = self.large[picks[:count]].float() / 255
        fresh = derive_batch(large, large.roll(1, 0), self.works.shape[-1], rng)
        if count == len(picks):
            return fresh
        kinds = torch.randint(self.pool.shape[1], (len(picks) - count,), generator=rng)
        made = self.pool[picks[count:], kinds].float() / 255
        return torch.cat([fresh, change_batch(made, POOL_CHANGES, rng)])

    def _loss(self, picks: Tensor, derivatives: Tensor) -> Tensor:
        cosines = derivatives @ self.bank.T
        contrast = functional.cross_entropy(cosines / TEMPERATURE, picks)
        nearest_other = cosines.scatter(1, picks[:, None], -1.0).amax(dim=1)
        apart = (2 - 2 * nearest_other).clamp_min(1e-6).sqrt()
        return contrast - self.stage.entropy_weight * apart.log().mean()

    def _follow(self) -> None:
        state = self.embedder.trained_state()
        with torch.no_grad():
            for name, value in self.average.trained_state().items():
                value.mul_(MOMENTUM).add_(state[name], alpha=1 - MOMENTUM)

    def _set_rates(self) -> None:
        warm = min(1.0, (self.step + 1) / WARM_UP_STEPS)
        share = warm * 0.5 * (1 + math.cos(math.pi * self.step / self.stage.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * max(share, 0.01)

    def _watch(self, loss: float, started: float, first: int) -> None:
        scores = self.validation.score(self.average)
        seconds = round(time.monotonic() - started, 1)
        self.curve.append(Watch(self.step, loss, scores.source_first, scores.credit, scores.absent_auc, seconds))
        left = seconds / (self.step - first) * (self.stage.stop - self.step)
        print(f"{self.curve[-1]}, about {left / 60:.0f} min left", file=sys.stderr, flush=True)  # noqa: T201
        self.save()

    @property
    def checkpoint(self) -> Path:
        """The file that `save` writes and `resume` reads."""
        return self.folder / f"{self.stage.name}.pt"

    def save(self) -> None:
        """Write a checkpoint atomically."""
        state: dict[str, Any] = {
            "step": self.step,
            "current": self.embedder.trained_state(),
            "average": self.average.trained_state(),
            "optimiser": self.optimiser.state_dict(),
            "bank": self.bank,
            "curve": [asdict(point) for point in self.curve],
        }
        with atomic_file(self.checkpoint) as file:
            torch.save(state, file)

    def resume(self) -> None:
        """Load the stage's last checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.step = state["step"]
        self.embedder.load_trained(state["current"])
        self.average.load_trained(state["average"])
        self.bank = state["bank"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.curve = [Watch(**point) for point in state["curve"]]
