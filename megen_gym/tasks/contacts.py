"""Whether atoms keep their distance, in cells that differ from structure to structure."""

from __future__ import annotations

import numpy as np

from megen_gym.images import slices
from megen_gym.near import within
from megen_gym.structure import BoolArray, FloatArray, IntArray

PERIODIC = (True, True, True)


def apart(
    cells: FloatArray, points: FloatArray, own: IntArray, fractions: FloatArray, mask: BoolArray, distance: float
) -> BoolArray:
    """(B,) whether no point is nearer than `distance` to an atom or image, its own images included.

    Args:
        cells: (B, 3, 3) Å, rows are lattice vectors, periodic along all of them.
        points: (B, K, 3) fractional coordinates of atoms.
        own: (B, K) index of each point among the atoms; negative where there is no point.
        fractions: (B, N, 3) fractional coordinates of the atoms.
        mask: (B, N) where there is an atom.
        distance: Å.
    """
    good = np.linalg.norm(cells, axis=2).min(1) >= distance  # a cell that is too thin would have many images
    candidates = np.flatnonzero(good)
    for part in slices(len(candidates), 3 * mask.shape[1] * own.shape[1]):
        rows = candidates[part]
        structure, point, atom = np.nonzero((own[rows] >= 0)[:, :, None] & mask[rows, None])
        at = rows[structure]
        delta = points[at, point] - fractions[at, atom]
        vectors = np.einsum("mi,mij->mj", delta, cells[at])
        near, _ = within(cells[rows], PERIODIC, structure, vectors, atom == own[at, point], distance)
        good[at[near]] = False
    return np.asarray(good)
