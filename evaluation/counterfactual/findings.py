"""All that one run measured, before it is written up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evaluation.counterfactual.moving import Moved
from evaluation.counterfactual.retraining import Laboratory
from evaluation.counterfactual.spec import Plan
from evaluation.sections import Estimate

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Findings:
    """scores: LDS by row. agreement: of one seed's losses with another's. moves: by choice of works;
    perceptual: (J,) profile distance of each moved image, by the same names."""

    plan: Plan
    laboratory: Laboratory
    attributions: Mapping[str, Values]
    scores: Mapping[str, Estimate]
    agreement: Estimate
    moves: list[Moved]
    perceptual: Mapping[str, Values]
