"""Adapts the backbone: an image and its derivative together, all other works apart.

The loss is SSCD's (arXiv 2202.10261): InfoNCE between a derivative and its work, against every work trained on, and an
entropy term that keeps each work away from its nearest other.
"""

from __future__ import annotations

import copy
import csv
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluation.training.augment import change_batch, derive_batch
from evaluation.training.embedder import Embedder
from evaluation.training.validation import Validation

TEMPERATURE = 0.05
ENTROPY_WEIGHT = 4.0
BATCH_WORKS = 96
BACKBONE_RATE = 1e-4
HEAD_RATE = 5e-5
MOMENTUM = 0.985
"""Of the averaged weights, which embed the works and are the ones kept. Works embedded by the weights in training
drift under the derivatives' feet: the loss rises instead of falling."""

POOL_CHANGES = 0.3
"""Share of the usual chance of a change that derivatives by the recipes have."""

WARM_UP_STEPS = 30
WATCH_EVERY = 40
"""Steps between two looks at the validation works; also between two checkpoints."""


@dataclass(frozen=True, slots=True)
class Watch:
    """One line of the curve; loss is the mean since the last one, scores as `validation.Scores`."""

    step: int
    loss: float
    source_first: float
    credit: float
    absent_auc: float
    seconds: float


@dataclass
class Training:
    """One run over `works` (N, 3, S, S) uint8; what `save` writes, `resume` takes up to the bit.

    bank: (N, 512), each work's embedding when it was last seen, against which derivatives are told apart.
    """

    embedder: Embedder
    works: Tensor
    large: Tensor
    pool: Tensor
    validation: Validation
    steps: int
    seed: int
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
        self.best = -math.inf

    def run(self) -> None:
        """Train to the last step, writing a checkpoint and the curve at each watch."""
        started, losses = time.monotonic(), []
        for picks in self._batches():
            losses.append(self._learn(picks))
            self.step += 1
            if self.step % WATCH_EVERY == 0 or self.step == self.steps:
                self._watch(sum(losses) / len(losses), started)
                losses.clear()

    def _batches(self) -> Iterator[Tensor]:
        """Rows of the works of each step that is left: every work once before any twice."""
        per_round = len(self.works) // BATCH_WORKS
        while self.step < self.steps:
            rng = torch.Generator().manual_seed(self.seed * 1_000 + self.step // per_round)
            order = torch.randperm(len(self.works), generator=rng)
            start = self.step % per_round * BATCH_WORKS
            yield order[start : start + BATCH_WORKS]

    def _learn(self, picks: Tensor) -> float:
        rng = torch.Generator().manual_seed(self.seed * 1_000_000 + self.step)
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
        """Half of them anew, from the large copies; half by the recipes, changed a little further by chance."""
        half = len(picks) // 2
        large = self.large[picks[:half]].float() / 255
        fresh = derive_batch(large, large.roll(1, 0), self.works.shape[-1], rng)
        kinds = torch.randint(self.pool.shape[1], (len(picks) - half,), generator=rng)
        made = self.pool[picks[half:], kinds].float() / 255
        return torch.cat([fresh, change_batch(made, POOL_CHANGES, rng)])

    def _loss(self, picks: Tensor, derivatives: Tensor) -> Tensor:
        cosines = derivatives @ self.bank.T
        contrast = functional.cross_entropy(cosines / TEMPERATURE, picks)
        nearest_other = cosines.scatter(1, picks[:, None], -1.0).amax(dim=1)
        apart = (2 - 2 * nearest_other).clamp_min(1e-6).sqrt()
        return contrast - ENTROPY_WEIGHT * apart.log().mean()

    def _follow(self) -> None:
        state = self.embedder.trained_state()
        with torch.no_grad():
            for name, value in self.average.trained_state().items():
                value.mul_(MOMENTUM).add_(state[name], alpha=1 - MOMENTUM)

    def _set_rates(self) -> None:
        warm = min(1.0, (self.step + 1) / WARM_UP_STEPS)
        share = warm * 0.5 * (1 + math.cos(math.pi * min(self.step / self.steps, 1.0)))
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * max(share, 0.01)

    def _watch(self, loss: float, started: float) -> None:
        scores = self.validation.score(self.average)
        seconds = round(time.monotonic() - started, 1)
        self.curve.append(Watch(self.step, loss, scores.source_first, scores.credit, scores.absent_auc, seconds))
        left = seconds / max(self.step, 1) * (self.steps - self.step)
        print(f"{self.curve[-1]}, about {left / 60:.0f} min left", file=sys.stderr, flush=True)  # noqa: T201
        self.save("last.pt")
        if scores.value > self.best:
            self.best = scores.value
            self.save("best.pt")
        self._write_curve()

    def save(self, name: str) -> None:
        """Write a checkpoint whole or not at all."""
        state: dict[str, Any] = {
            "step": self.step,
            "current": self.embedder.trained_state(),
            "average": self.average.trained_state(),
            "optimiser": self.optimiser.state_dict(),
            "bank": self.bank,
            "best": self.best,
            "curve": [asdict(one) for one in self.curve],
        }
        torch.save(state, self.folder / "part")
        (self.folder / "part").rename(self.folder / name)

    def resume(self) -> None:
        """Take up `last.pt`, if there is one."""
        path = self.folder / "last.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.step, self.best = state["step"], state["best"]
        self.embedder.load_trained(state["current"])
        self.average.load_trained(state["average"])
        self.bank = state["bank"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.curve = [Watch(**one) for one in state["curve"]]

    def _write_curve(self) -> None:
        with (self.folder / "curve.csv").open("w", encoding="utf-8", newline="") as lines:
            writer = csv.DictWriter(lines, [field.name for field in fields(Watch)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(one) for one in self.curve)
