"""A data set, the generators that learnt from it, and everything embedded: what most criteria look at."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from evaluation.criteria.classifier import classes_of, train_classifier
from evaluation.criteria.spec import SEED, Plan
from evaluation.digits.embedding import Embedder
from evaluation.digits.neighbours import Values, distances
from evaluation.digits.pictures import Labelled, Labels, Pictures
from evaluation.generators import Diffusion, Progress, Vae, diffuse, sample, train_vae
from gmvaluator.ports import Embeddings

VAE, DIFFUSION, HELD = "VAE", "latent diffusion", "real, held out"
GENERATED = (VAE, DIFFUSION)
_EPOCHS_TOLD = 10


@dataclass(frozen=True)
class Asked:
    """J pictures that are asked about. classes: as the classifier names them, or the true ones of real pictures;
    sure: how sure it is. distances: (J, N) perceptual, to every work."""

    name: str
    pictures: Pictures
    classes: Labels
    sure: npt.NDArray[np.float32]
    embeddings: Embeddings
    distances: Values


@dataclass(frozen=True)
class World:
    """works: trained on and indexed. held: never trained on. asked: by name. accuracy: of the classifier on `held`."""

    works: Labelled
    held: Labelled
    embeddings: Embeddings
    held_embeddings: Embeddings
    asked: dict[str, Asked]
    accuracy: float

    @cached_property
    def generated(self) -> Asked:
        """The images of both generators together."""
        parts = [self.asked[name] for name in GENERATED]
        quality = np.concatenate([np.asarray(part.embeddings.quality) for part in parts])
        embeddings = Embeddings(
            np.concatenate([part.embeddings.recall for part in parts]),
            np.concatenate([part.embeddings.perceptual for part in parts]),
            quality,
        )
        return Asked(
            "generated",
            np.concatenate([part.pictures for part in parts]),
            np.concatenate([part.classes for part in parts]),
            np.concatenate([part.sure for part in parts]),
            embeddings,
            np.concatenate([part.distances for part in parts]),
        )


def build_world(data: Labelled, plan: Plan, embedder: Embedder) -> World:
    """Train the generators and a classifier, draw, name the classes, embed."""
    works, held = data.part(0, plan.works), data.part(plan.works, plan.works + plan.held)
    started = time.monotonic()
    vae, diffusion = train_generators(works.images, plan.epochs, data.name)
    pictures = {
        VAE: sample(vae, plan.asked, SEED + 1),
        DIFFUSION: sample(diffusion, plan.asked, SEED + 2),
        HELD: held.images[: plan.asked],
    }
    classifier = train_classifier(works, SEED, plan.classifier_epochs)
    say(f"{data.name}: generators and classifier trained in {time.monotonic() - started:,.0f} s")
    accuracy = float((classes_of(classifier, held.images)[0] == held.labels).mean())
    embeddings = embedder.small(works.images, f"{data.name} works")
    held_embeddings = embedder.small(held.images, f"{data.name} held out")
    asked = {}
    for name, drawn in pictures.items():
        classes, sure = classes_of(classifier, drawn)
        found = embedder.small(drawn, f"{data.name} {name}")
        known = held.labels[: plan.asked] if name == HELD else classes
        asked[name] = Asked(name, drawn, known, sure, found, distances(found.perceptual, embeddings.perceptual))
    return World(works, held, embeddings, held_embeddings, asked, accuracy)


def train_generators(pictures: Pictures, epochs: int, what: str) -> tuple[Vae, Diffusion]:
    """Both, the second on the first's latents, with progress on stderr."""
    vae = train_vae(pictures, SEED, epochs, _told(f"{what}, {VAE}"))
    return vae, diffuse(vae, pictures, SEED, epochs, _told(f"{what}, {DIFFUSION}"))


def _told(what: str) -> Progress:
    def progress(done: int, total: int) -> None:
        if done % _EPOCHS_TOLD == 0 or done == total:
            say(f"{what}: epoch {done} of {total}")

    return progress


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
