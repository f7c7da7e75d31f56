"""Quality by pyiqa: MANIQA, and the metrics that take its place."""

from __future__ import annotations

from dataclasses import dataclass

from gmvaluator.errors import InvalidInput, UnknownModel
from gmvaluator.models.parts.part import Part, WeightFile

QUALITY_ROLE = "quality"
ALL_CROPS = 20
_PYIQA_LICENCE = "as pyiqa: PolyForm-Noncommercial 1.0.0 (its repository names no other for this file)"
_STORE = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main"


@dataclass(frozen=True, slots=True)
class Metric:
    """worst and best: values of pyiqa's metric that become quality 0 and 1; worst above best: lower is better."""

    file: str
    worst: float
    best: float
    size_mb: int


METRICS = {
    "maniqa": Metric("ckpt_koniq10k.pt", 0, 1, 543),
    "maniqa-pipal": Metric("MANIQA_PIPAL-ae6d356b.pth", 0, 1, 543),
    "maniqa-kadid": Metric("ckpt_kadid10k.pt", 0, 1, 543),
    "musiq": Metric("musiq_koniq_ckpt-e95806b9.pth", 0, 100, 109),
    "musiq-spaq": Metric("musiq_spaq_ckpt-358bb6af.pth", 0, 100, 109),
    "musiq-paq2piq": Metric("musiq_paq2piq_ckpt-364c0c84.pth", 0, 100, 109),
    "cnniqa": Metric("CNNIQA_koniq10k-e6f14c91.pth", 0, 1, 3),
    "brisque": Metric("brisque_svm_weights.pth", 100, 0, 1),
    "niqe": Metric("niqe_modelparameters.mat", 20, 0, 1),
}
"""pyiqa states "~0, ~150" for brisque and "~0, ~100" for niqe; all but ruined images lie within what is taken here."""


def pyiqa_part(name: str, crops: int) -> Part:
    """crops: how many of an image MANIQA scores, 1 to 20; 0 for the packaged 20. Raises UnknownModel, InvalidInput."""
    if name not in METRICS:
        raise UnknownModel(f"there is no quality model {name!r}; known: {', '.join(METRICS)}, lite, off")
    metric = METRICS[name]
    files = (
        WeightFile(
            QUALITY_ROLE, f"pyiqa/{metric.file}", "url", f"{_STORE}/{metric.file}", _PYIQA_LICENCE, metric.size_mb
        ),
    )
    if name.startswith("maniqa"):
        return _maniqa_part(name, crops or ALL_CROPS, files)
    if crops:
        raise InvalidInput(f"--crops is for maniqa; {name} sees the whole image: leave it out")
    settings = {"metric": name}
    return Part(
        f"pyiqa {name}", "gmvaluator.models.pyiqa_metric", "gmvaluator.models.bounded_pixels", 0, files, settings
    )


def _maniqa_part(name: str, crops: int, files: tuple[WeightFile, ...]) -> Part:
    if not 1 <= crops <= ALL_CROPS:
        raise InvalidInput(f"--crops {crops} is out of range: MANIQA scores 1 to {ALL_CROPS} crops of an image")
    model = f"pyiqa {name}, {crops} crops"
    settings = {"metric": name, "crops": crops}
    return Part(model, "gmvaluator.models.maniqa", "gmvaluator.models.crops", 0, files, settings)
