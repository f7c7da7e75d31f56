"""A small classifier: it names the class of generated pictures, which have no label."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluation.digits.pictures import CLASSES, Labelled, Labels, Pictures
from evaluation.generators.sampling import BATCH, to_unit

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
        """(B, 1, 28, 28) in [0, 1] to logits (B, 10)."""
        logits: Tensor = self.layers(pictures)
        return logits


def train_classifier(data: Labelled, seed: int, epochs: int) -> Classifier:
    """A classifier of labelled pictures, each shifted by up to two pixels at every sight.

    The global random state is left as it was.
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
    """(N, 28, 28) uint8 to the likeliest class of each and its probability."""
    chunks = [model(to_unit(pictures[start : start + _CHUNK])) for start in range(0, len(pictures), _CHUNK)]
    found = torch.cat(chunks).softmax(dim=1).max(dim=1)
    return found.indices.numpy(), found.values.numpy()
