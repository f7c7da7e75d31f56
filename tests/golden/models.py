"""Golden outputs of models with seeded weights, one small file a model.

`GMV_WRITE_GOLDEN=1 pytest …` writes them anew from what the tests see: look at the difference before you keep it.
"""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent / "models"
KEPT_NUMBERS = 64
"""Of each row, spread evenly: enough to notice a change."""


def check_golden(name: str, values: npt.ArrayLike) -> None:
    """Rows (N, ...) are what was stored under `name`, to 1e-4: other processors and versions of torch sum otherwise."""
    rows = np.asarray(values, np.float32)
    rows = rows.reshape(len(rows), -1)
    rows = rows[:, :: -(-rows.shape[1] // KEPT_NUMBERS)]
    path = FOLDER / f"{name}.npz"
    if os.environ.get("GMV_WRITE_GOLDEN"):
        np.savez(path, values=rows)
    np.testing.assert_allclose(rows, np.load(path)["values"], rtol=0, atol=1e-4, err_msg=name)
