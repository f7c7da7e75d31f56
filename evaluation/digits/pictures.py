"""MNIST, of which 10,000 digits are shipped, and Fashion-MNIST, where its files are given."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from gmvaluator.errors import InvalidInput
from gmvaluator.samples import sample_folder

SIDE_PX = 28
CLASSES = 10
_SHUFFLE_SEED = 60_000
_MAX_PICTURES = 60_000
_MAGIC_IMAGES, _MAGIC_LABELS = 2051, 2049

Pictures = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Labelled:
    """images: (N, 28, 28) uint8, bright on black. labels: (N,) classes 0 to 9. In a fixed random order."""

    name: str
    images: Pictures
    labels: Labels

    def part(self, start: int, stop: int) -> Labelled:
        """Rows start to stop. Raises InvalidInput if there are not so many."""
        if stop > len(self.images):
            raise InvalidInput(f"{self.name} has {len(self.images):,} pictures and {stop:,} are needed")
        return Labelled(self.name, self.images[start:stop], self.labels[start:stop])


def load_mnist() -> Labelled:
    """The shipped digits. Raises MissingData if the sample is not installed."""
    with np.load(sample_folder("mnist") / "mnist10k.npz", allow_pickle=False) as stored:
        return _shuffled("MNIST", stored["images"], stored["labels"])


def load_fashion(folder: Path) -> Labelled:
    """Fashion-MNIST's 10,000 test pictures from its idx files in `folder`, as Debian's package has them.

    Raises InvalidInput if they are not there or not what they should be.
    """
    images = _idx(folder / "t10k-images-idx3-ubyte.gz", _MAGIC_IMAGES, 16)
    labels = _idx(folder / "t10k-labels-idx1-ubyte.gz", _MAGIC_LABELS, 8)
    if len(images) != len(labels) * SIDE_PX * SIDE_PX or labels.max(initial=0) >= CLASSES:
        raise InvalidInput(f"the idx files in {folder} do not belong together: unpack dataset-fashion-mnist again")
    return _shuffled("Fashion-MNIST", images.reshape(-1, SIDE_PX, SIDE_PX), labels)


def _idx(path: Path, magic: int, header: int) -> Pictures:
    limit = _MAX_PICTURES * SIDE_PX * SIDE_PX + header
    try:
        with gzip.open(path) as file:
            data = file.read(limit + 1)
    except (OSError, EOFError) as error:
        raise InvalidInput(f"{path} cannot be read as a gzipped idx file ({error})") from error
    if len(data) <= header or len(data) > limit or int.from_bytes(data[:4], "big") != magic:
        raise InvalidInput(f"{path} is no idx file of Fashion-MNIST")
    return np.frombuffer(data, dtype=np.uint8, offset=header)


def _shuffled(name: str, images: Pictures, labels: npt.NDArray[np.uint8]) -> Labelled:
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(images))
    return Labelled(name, images[order], labels[order].astype(np.int64))


def to_image(picture: Pictures) -> Image.Image:
    """RGB, dark on white: as profiles, which were made for works on paper, see them best."""
    return Image.fromarray(255 - picture).convert("RGB")
