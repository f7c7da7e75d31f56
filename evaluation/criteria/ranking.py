"""Ranking on the graph of works: unlike nearest neighbours, it follows chains of likeness between works.

    f = (1 - α) Σ_n αⁿ Sⁿ y,    S = D^-1/2 A D^-1/2

Zhou et al. (2004), for retrieval Iscen et al. (2017). y: cosines of the asked image with its 10 nearest works, to the
power of 16; A: the same of each work with its 10 nearest others, made symmetric; D: sums of its rows. No label, no
training. The numbers were chosen on real held-out digits that no criterion asks about.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from evaluation.digits.neighbours import Values

_NEIGHBOURS = 10
_POWER = 16
_ALPHA = 0.97
_ROUNDS = 30

Cosines = npt.NDArray[np.float32]


def graph_distances(queries: Cosines, works: Cosines) -> Values:
    """-f, (J, N), lower is nearer, from cosines of J queries with N works, (J, N), and of works with works, (N, N)."""
    graph = _graph(works)
    start = np.asarray(_sparse(queries).toarray().T, dtype=np.float32)
    reached = start
    for _ in range(_ROUNDS):
        reached = _ALPHA * (graph @ reached) + (1 - _ALPHA) * start
    return np.asarray(-reached.T, dtype=np.float64)


def _graph(works: Cosines) -> Any:
    """S, sparse. A work is not its own neighbour."""
    from scipy.sparse import diags

    others = works.copy()
    np.fill_diagonal(others, -1)
    near = _sparse(others)
    near = near.maximum(near.T)
    scale = diags(1 / np.sqrt(np.asarray(near.sum(axis=1)).ravel() + 1e-9))
    return (scale @ near @ scale).tocsr().astype(np.float32)


def _sparse(cosines: Cosines) -> Any:
    """(J, N) to the same with the 10 largest of each row, to the power of 16, and 0 elsewhere."""
    from scipy.sparse import csr_matrix

    count = min(_NEIGHBOURS, cosines.shape[1])
    columns = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    weights = np.clip(np.take_along_axis(cosines, columns, axis=1), 0, None) ** _POWER
    rows = np.repeat(np.arange(len(cosines)), count)
    return csr_matrix((weights.ravel(), (rows, columns.ravel())), shape=cosines.shape)
