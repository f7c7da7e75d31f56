"""What a process that runs models sets up first, before torch is imported."""

from __future__ import annotations

import os

from gmvaluator.models.memory import raise_malloc_thresholds


def prepare_process() -> None:
    """Keep freed memory, and let idle model threads sleep; call it before anything imports torch.

    By default OpenMP's threads spin while they wait for each other. Where other programs use the same cores, a
    spinning thread keeps the one it waits for from running: with both of two cores shared, profile `lite` took six
    times the processor time. An operator's own OMP_WAIT_POLICY wins.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    raise_malloc_thresholds()
