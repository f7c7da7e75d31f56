"""Golden outputs of models with seeded weights, one small file a model.

`GMV_WRITE_GOLDEN=1 pytest …` rewrites them from the tests' outputs: inspect the difference before you commit it.
"""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent / "models"
KEPT_NUMBERS = 64
"""Numbers stored of each row, spread evenly: enough to notice a change."""


def check_golden(name: str, values: npt.ArrayLike) -> None:
    """Compare rows (N, ...) with those stored under `name`.

    Tolerance 1e-4, because processors and versions of torch sum in different orders.
    """
    rows = np.asarray(values, np.float32)
    rows = rows.reshape(len(rows), -1)
    rows = rows[:, :: -(-rows.shape[1] // KEPT_NUMBERS)]
    path = FOLDER / f"{name}.npz"
    if os.environ.get("GMV_WRITE_GOLDEN"):
        np.savez(path, values=rows)
    np.testing.assert_allclose(rows, np.load(path)["values"], rtol=0, atol=1e-4, err_msg=name)
