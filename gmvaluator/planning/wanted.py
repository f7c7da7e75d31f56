"""What a plan is made for: images, vectors, load, machines."""

from __future__ import annotations

from dataclasses import dataclass

from gmvaluator.errors import InvalidInput
from gmvaluator.index.quantisation import CHOICES, DEFAULT

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Vectors:
    """What one work is in the index: one recall vector of recall_dim, `views` perceptual ones of perceptual_dim."""

    recall_dim: int
    perceptual_dim: int
    views: int


PROFILES = {"lite": Vectors(512, 514, 10), "paper": Vectors(512, 512, 1)}
"""Vectors of the profiles, a test holds them against the profiles themselves. `paper` is planned with `--rerank
dreamsim:open_clip_vitb32`, the variant whose speed was measured; its default, an ensemble of three larger networks, has
1,792 dimensions and about twelve times the operations."""


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of the index. iops: random reads of 4 KiB its disk does a second."""

    ram_gib: float = 64.0
    disk_gib: float = 2_000.0
    cores: int = 16
    iops: float = 200_000.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: peak of dense arithmetic in 10^12 operations a second, as its maker's data sheet says it.

    fp32: without tensor cores, which is what the product uses by default. bf16: with them; 0 where there is none.
    """

    name: str
    fp32: float
    bf16: float


GPUS = {
    one.name: one
    for one in (
        Gpu("t4", 8.1, 0.0),
        Gpu("l4", 30.3, 121.0),
        Gpu("a10", 31.2, 125.0),
        Gpu("l40s", 91.6, 362.0),
        Gpu("a100", 19.5, 312.0),
        Gpu("h100", 67.0, 989.0),
        Gpu("h200", 67.0, 989.0),
    )
}
"""NVIDIA's data sheets, dense figures (half of those with sparsity), the SXM kind of A100, H100 and H200."""

NO_GPU = "none"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for.

    images: works in the index. qps: generated images a second, on average over a day for storage and at its peak for
    speed. gpu: a key of GPUS, or NO_GPU. precision: fp32 or bf16. gpu_images_per_s: works a second that one GPU was
    seen to embed; 0: reckoned from its peak. hours: in which the index has to be made. cache_share: of the recall
    vectors' originals that page cache holds.
    """

    images: int
    qps: float
    profile: str = "lite"
    vectors: Vectors = PROFILES["lite"]
    quantisation: str = DEFAULT
    replicas: int = 2
    node: Node = Node()
    gpu: str = "l4"
    precision: str = "fp32"
    gpu_images_per_s: float = 0.0
    hours: float = 24.0
    cache_share: float = 0.1

    def __post_init__(self) -> None:
        """Raises InvalidInput if nothing can be planned for this."""
        if self.quantisation not in CHOICES:
            raise InvalidInput(f"quantisation {self.quantisation!r} is refused: use one of {', '.join(CHOICES)}")
        if self.profile not in PROFILES:
            raise InvalidInput(f"profile {self.profile!r} is refused: use one of {', '.join(PROFILES)}")
        if self.gpu != NO_GPU and self.gpu not in GPUS:
            raise InvalidInput(f"GPU {self.gpu!r} is not known: use one of {', '.join([NO_GPU, *GPUS])}")
        if self.gpu != NO_GPU and self.precision == "bf16" and not GPUS[self.gpu].bf16:
            raise InvalidInput(f"a {self.gpu} does not compute in bf16: plan in fp32, or with another GPU")
