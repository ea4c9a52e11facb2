"""Symmetry operations of the average structure, for turning one structure of the data into many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import spglib

from megen_gym.agents.cryingan.system import System
from megen_gym.structure import FloatArray, IntArray

MOST = 128
"""Operations that are used; of more (the translations within a supercell) a random choice."""

ISOMETRY = 1e-3
"""How far a matrix may be from a rotation of the cell."""


@dataclass(frozen=True, eq=False)
class Symmetry:
    """M operations f' = W f + t on fractional coordinates.

    Attributes:
        rotations: (M, 3, 3) integers, W.
        translations: (M, 3), t.
        sites: (M, N), the site that each site is moved to.
    """

    rotations: FloatArray
    translations: FloatArray
    sites: IntArray

    def __len__(self) -> int:
        return len(self.rotations)

    @classmethod
    def identity(cls, atoms: int) -> Symmetry:
        """No symmetry."""
        return cls(np.eye(3)[None], np.zeros((1, 3)), np.arange(atoms)[None])


def find_symmetry(system: System, anchors: FloatArray, occupancy: FloatArray, moved: FloatArray) -> Symmetry:
    """The operations under which anchors and occupancies are the same, as far as so many structures can tell.

    Along axes that are not periodic nothing is moved.

    Args:
        system: Cell and periodicity.
        anchors: (N, 3) Å.
        occupancy: (E, N).
        moved: (B, N, 3) Å, displacements of B structures from the anchors.
    """
    lattice, size = system.lattice, len(moved)
    tolerance = 0.02 + 6 * float(np.sqrt((moved**2).sum(-1).mean(0).max() / size))
    kinds = _kinds(occupancy, size)
    fractions = lattice.fractional(anchors)
    found = spglib.get_symmetry((lattice.cell.tolist(), fractions.tolist(), kinds.tolist()), symprec=tolerance)
    if found is None:
        return Symmetry.identity(len(kinds))
    rotations, translations = found["rotations"].astype(float), found["translations"]
    fixed = ~np.array(system.pbc)
    still = np.all(rotations[:, fixed] == np.eye(3)[fixed], axis=(1, 2))
    still &= np.all(rotations[:, :, fixed] == np.eye(3)[:, fixed], axis=(1, 2))
    still &= np.all(np.abs(translations[:, fixed]) < 1e-6, axis=1)
    turns = np.linalg.inv(lattice.cell) @ rotations.transpose(0, 2, 1) @ lattice.cell
    still &= np.abs(turns @ turns.transpose(0, 2, 1) - np.eye(3)).max((1, 2)) < ISOMETRY
    chosen = np.flatnonzero(still)
    if len(chosen) > MOST:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, MOST, replace=False))
    rotations, translations = rotations[chosen], translations[chosen]
    moved = np.einsum("mab,nb->mna", rotations, fractions) + translations[:, None]
    target = np.empty(moved.shape[:2], dtype=np.int64)
    for row, places in enumerate(moved):
        apart = lattice.minimum_image(lattice.cartesian(places[:, None] - fractions))
        target[row] = (apart**2).sum(-1).argmin(1)
    whole = (np.sort(target, axis=1) == np.arange(len(kinds))).all(1)
    if not whole.any():
        return Symmetry.identity(len(kinds))
    return Symmetry(rotations[whole], translations[whole], target[whole])


def _kinds(occupancy: FloatArray, structures: int) -> IntArray:
    """(N,) classes of sites whose occupancies (E, N) agree within three standard errors with the first of the class."""
    variance = occupancy * (1 - occupancy)
    kinds = np.full(occupancy.shape[1], -1)
    while (kinds < 0).any():
        first = int(np.argmax(kinds < 0))
        error = np.sqrt((variance + variance[:, first : first + 1] + 1 / structures) / structures)
        same = np.all(np.abs(occupancy - occupancy[:, first : first + 1]) <= 3 * error, axis=0)
        kinds[same & (kinds < 0)] = first + 1
    return kinds
