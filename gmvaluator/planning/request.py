"""The request of a plan: works, vectors, load and machines."""

from __future__ import annotations

from dataclasses import dataclass

from gmvaluator.errors import InvalidInput
from gmvaluator.index.engine.quantisation import CHOICES
from gmvaluator.index.schema import DEFAULT_QUANTISATION


@dataclass(frozen=True, slots=True)
class Vectors:
    """Vectors of one work in the index: one for recall of recall_dim, `views` perceptual ones of perceptual_dim."""

    recall_dim: int
    perceptual_dim: int
    views: int


# `paper` is planned with `--rerank dreamsim:open_clip_vitb32`, the variant whose speed was measured. Its default, an
# ensemble of three larger networks, has 1,792 dimensions and about twelve times the operations.
PROFILES = {"lite": Vectors(512, 514, 10), "paper": Vectors(512, 512, 1)}
"""Vectors of one work in each profile; a test compares these figures with the profiles' own."""


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of the index. iops: random reads of 4 KiB a second that its disk can do."""

    ram_gib: float = 64.0
    disk_gib: float = 2_000.0
    cores: int = 16
    iops: float = 200_000.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: peak of dense arithmetic in 10^12 operations a second, from its maker's data sheet.

    fp32: without tensor cores, which is the product's default. bf16: with tensor cores; 0 if it has none for bf16.
    """

    name: str
    fp32: float
    bf16: float


# Dense figures, which are half of the data sheets' figures with sparsity; the SXM kind of A100, H100 and H200.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("t4", 8.1, 0.0),
        Gpu("l4", 30.3, 121.0),
        Gpu("a10", 31.2, 125.0),
        Gpu("l40s", 91.6, 362.0),
        Gpu("a100", 19.5, 312.0),
        Gpu("h100", 67.0, 989.0),
        Gpu("h200", 67.0, 989.0),
    )
}
"""GPUs that a plan can be made with, by the name that `--gpu` takes; figures from NVIDIA's data sheets."""

NO_GPU = "none"
"""The value of `--gpu` for a plan on CPUs alone."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """The deployment to plan.

    images: works in the index. qps: generated images a second, the daily average for storage and the peak for speed.
    gpu: a key of GPUS, or NO_GPU. precision: fp32 or bf16. gpu_images_per_s: works a second that one GPU was measured
    to embed; 0: estimate it from the GPU's peak. hours: time in which the index has to be built. cache_share: part of
    the recall vectors' originals that the page cache holds, 0 to 1.

    Raises InvalidInput if no plan can be made for it.
    """

    images: int
    qps: float
    profile: str = "lite"
    vectors: Vectors = PROFILES["lite"]
    quantisation: str = DEFAULT_QUANTISATION
    replicas: int = 2
    node: Node = Node()
    gpu: str = "l4"
    precision: str = "fp32"
    gpu_images_per_s: float = 0.0
    hours: float = 24.0
    cache_share: float = 0.1

    def __post_init__(self) -> None:
        if self.quantisation not in CHOICES:
            raise InvalidInput(f"quantisation {self.quantisation!r} is refused: use one of {', '.join(CHOICES)}")
        if self.profile not in PROFILES:
            raise InvalidInput(f"profile {self.profile!r} is refused: use one of {', '.join(PROFILES)}")
        if self.gpu != NO_GPU and self.gpu not in GPUS:
            raise InvalidInput(f"GPU {self.gpu!r} is not known: use one of {', '.join([NO_GPU, *GPUS])}")
        if self.gpu != NO_GPU and self.precision == "bf16" and not GPUS[self.gpu].bf16:
            raise InvalidInput(f"a {self.gpu} does not compute in bf16: plan in fp32, or with another GPU")
