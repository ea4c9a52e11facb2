"""Whether atoms keep their distance, in cells that differ from structure to structure."""

from __future__ import annotations

from itertools import product

import numpy as np

from megen_gym.images import slices
from megen_gym.structure import BoolArray, FloatArray, IntArray


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
    good = np.linalg.norm(cells, axis=2).min(1) >= distance
    used, width = own >= 0, int(mask.sum(1).max(initial=0))
    fractions, mask = fractions[:, :width], mask[:, :width]
    heights = 1 / np.linalg.norm(np.linalg.inv(cells), axis=1)
    counts = np.floor(distance / heights + 0.5).astype(np.int64)  # farther images cannot be as near
    kinds, kind = np.unique(counts[good], axis=0, return_inverse=True)
    candidates = np.flatnonzero(good)
    for number, count in enumerate(kinds):
        rows = candidates[kind.reshape(-1) == number]
        sites = int(np.flatnonzero(used[rows].any(0)).max(initial=-1)) + 1
        spans = [range(-most, most + 1) for most in count.tolist()]
        images = np.array(sorted(product(*spans), key=lambda image: sum(map(abs, image))))  # the zero image first
        for part in slices(len(rows), 3 * sites * width * len(images)):
            at = rows[part]
            delta = points[at, :sites, None] - fractions[at, None]
            delta -= np.round(delta)
            vectors = (delta[..., None, :] + images).reshape(len(at), -1, 3) @ cells[at]
            square = np.einsum("bix,bix->bi", vectors, vectors).reshape(*delta.shape[:3], -1)
            near = (square < distance**2) & (mask[at, None] & used[at, :sites, None])[..., None]
            batch, point = np.nonzero(used[at, :sites])
            near[batch, point, own[at][batch, point], 0] = False
            good[at] = ~near.any((1, 2, 3))
    return np.asarray(good)
