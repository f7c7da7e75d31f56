"""The setting of most criteria: a data set, the generators trained on it, a classifier, and all embeddings.

Sizes and seeds were fixed before anything was measured. Epochs were raised afterwards, because the first generators
drew few legible digits and the first classifier misnamed one real digit in twenty. They were chosen by the number of
legible digits, by held-out pictures and by time, not by any criterion.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluation.generators import Diffusion, Progress, Vae, diffuse, sample, train_vae
from evaluation.generators.digits import CLASSES, Embedder, Labelled, Labels, Pictures, Values, distances
from evaluation.generators.sampling import BATCH, to_unit
from gmvaluator.ports import Embeddings

_RATE = 2e-3
_CHUNK = 500


class Classifier(nn.Module):
    """Two convolutions and two dense layers on (B, 1, 28, 28)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 96), nn.ReLU(), nn.Dropout(0.3), nn.Linear(96, CLASSES),
        )  # fmt: skip

    def forward(self, pictures: Tensor) -> Tensor:
        """Map (B, 1, 28, 28) in [0, 1] to logits (B, 10)."""
        logits: Tensor = self.layers(pictures)
        return logits


def train_classifier(data: Labelled, seed: int, epochs: int) -> Classifier:
    """Train a classifier on labelled pictures, each shifted by up to two pixels every time it is seen.

    The global random state is left unchanged.
    """
    pictures, labels = to_unit(data.images), torch.from_numpy(data.labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier()
        optimiser = torch.optim.Adam(model.parameters(), lr=_RATE)
        for _ in range(epochs):
            order = torch.randperm(len(pictures))
            for start in range(0, len(order), BATCH):
                batch = order[start : start + BATCH]
                down, right = (int(torch.randint(-2, 3, ())) for _ in range(2))
                shifted = torch.roll(pictures[batch], (down, right), (2, 3))
                optimiser.zero_grad()
                functional.cross_entropy(model(shifted), labels[batch]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    return model.eval()


@torch.no_grad()
def classes_of(model: Classifier, pictures: Pictures) -> tuple[Labels, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    """Return the likeliest class of (N, 28, 28) uint8 pictures, and its probability."""
    chunks = [model(to_unit(pictures[start : start + _CHUNK])) for start in range(0, len(pictures), _CHUNK)]
    predicted = torch.cat(chunks).softmax(dim=1).max(dim=1)
    return predicted.indices.numpy(), predicted.values.numpy()


SEED = 88
CLASS_KS = (30, 50, 100)
ATTRIBUTE_KS = (5, 10, 15)


@dataclass(frozen=True, slots=True)
class Plan:
    """Numbers of pictures.

    works: training pictures, all indexed. held: pictures of the same data set that were never trained on. queries:
    how many of these and of each generator's images are evaluated. epochs: of the generators. polluted: clean
    training pictures of C3. strays: noisy ones, and as many foreign ones. indexed: works of the real index of C4.
    timed: images of C4. paired: how many of them the plain pipeline processes. artworks: of C2.
    """

    works: int
    held: int
    queries: int
    epochs: int
    classifier_epochs: int
    polluted: int
    strays: int
    indexed: int
    timed: int
    paired: int
    artworks: int


FULL = Plan(6_000, 600, 200, 30, 30, 1_500, 150, 3_000, 60, 4, 1_051)
SHORT = Plan(120, 30, 10, 4, 4, 60, 10, 120, 3, 1, 24)

FULL_FASHION = replace(FULL, works=2_000, held=400, epochs=90)
SHORT_FASHION = SHORT
"""Sizes for the second data set, which checks that the first is no exception."""

VAE, DIFFUSION, HELD = "VAE", "latent diffusion", "real, held out"
GENERATED = (VAE, DIFFUSION)
_EPOCHS_TOLD = 10


@dataclass(frozen=True)
class QuerySet:
    """J query pictures.

    classes: as the classifier names them, or the true ones of real pictures. sure: the classifier's probability.
    distances: (J, N) perceptual, to every work.
    """

    name: str
    pictures: Pictures
    classes: Labels
    sure: npt.NDArray[np.float32]
    embeddings: Embeddings
    distances: Values


@dataclass(frozen=True)
class World:
    """The pictures of one criterion.

    works: trained on and indexed. held: never trained on. queries: by name. accuracy: of the classifier on `held`.
    """

    works: Labelled
    held: Labelled
    embeddings: Embeddings
    held_embeddings: Embeddings
    queries: dict[str, QuerySet]
    accuracy: float

    @cached_property
    def generated(self) -> QuerySet:
        """The images of both generators together."""
        parts = [self.queries[name] for name in GENERATED]
        quality = np.concatenate([np.asarray(part.embeddings.quality) for part in parts])
        embeddings = Embeddings(
            np.concatenate([part.embeddings.recall for part in parts]),
            np.concatenate([part.embeddings.perceptual for part in parts]),
            quality,
        )
        return QuerySet(
            "generated",
            np.concatenate([part.pictures for part in parts]),
            np.concatenate([part.classes for part in parts]),
            np.concatenate([part.sure for part in parts]),
            embeddings,
            np.concatenate([part.distances for part in parts]),
        )


def build_world(data: Labelled, plan: Plan, embedder: Embedder) -> World:
    """Train the generators and a classifier, draw images, classify and embed them."""
    works, held = data.part(0, plan.works), data.part(plan.works, plan.works + plan.held)
    started = time.monotonic()
    vae, diffusion = train_generators(works.images, plan.epochs, data.name)
    pictures = {
        VAE: sample(vae, plan.queries, SEED + 1),
        DIFFUSION: sample(diffusion, plan.queries, SEED + 2),
        HELD: held.images[: plan.queries],
    }
    classifier = train_classifier(works, SEED, plan.classifier_epochs)
    say(f"{data.name}: generators and classifier trained in {time.monotonic() - started:,.0f} s")
    accuracy = float((classes_of(classifier, held.images)[0] == held.labels).mean())
    embeddings = embedder.small(works.images, f"{data.name} works")
    held_embeddings = embedder.small(held.images, f"{data.name} held out")
    queries = {}
    for name, drawn in pictures.items():
        classes, sure = classes_of(classifier, drawn)
        predicted = embedder.small(drawn, f"{data.name} {name}")
        known = held.labels[: plan.queries] if name == HELD else classes
        queries[name] = QuerySet(
            name, drawn, known, sure, predicted, distances(predicted.perceptual, embeddings.perceptual)
        )
    return World(works, held, embeddings, held_embeddings, queries, accuracy)


def train_generators(pictures: Pictures, epochs: int, what: str) -> tuple[Vae, Diffusion]:
    """Train both generators, the second on the latents of the first, with progress on stderr."""
    vae = train_vae(pictures, SEED, epochs, _told(f"{what}, {VAE}"))
    return vae, diffuse(vae, pictures, SEED, epochs, _told(f"{what}, {DIFFUSION}"))


def _told(what: str) -> Progress:
    def progress(done: int, total: int) -> None:
        if done % _EPOCHS_TOLD == 0 or done == total:
            say(f"{what}: epoch {done} of {total}")

    return progress


def say(line: str) -> None:
    """Print progress to stderr."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
