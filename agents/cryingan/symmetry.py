"""Symmetry operations of the average structure, for turning one structure of the data into many."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import spglib

from megen_gym.agents.cryingan.system import System
from megen_gym.structure import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Symmetry:
    """M operations f' = W f + t on fractional coordinates; the first is the identity.

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
    lattice = system.lattice
    tolerance = 0.02 + 4 * float(np.sqrt((moved**2).mean() / len(moved)))
    kinds = _kinds(occupancy, 3 / np.sqrt(len(moved)))
    fractions = lattice.fractional(anchors)
    found = spglib.get_symmetry((lattice.cell.tolist(), fractions.tolist(), kinds.tolist()), symprec=tolerance)
    if found is None:
        return Symmetry.identity(len(kinds))
    rotations, translations = found["rotations"].astype(float), found["translations"]
    fixed = ~np.array(system.pbc)
    still = np.all(rotations[:, fixed] == np.eye(3)[fixed], axis=(1, 2))
    still &= np.all(rotations[:, :, fixed] == np.eye(3)[:, fixed], axis=(1, 2))
    still &= np.all(np.abs(translations[:, fixed]) < 1e-6, axis=1)
    rotations, translations = rotations[still], translations[still]
    moved = np.einsum("mab,nb->mna", rotations, fractions) + translations[:, None]
    target = np.empty(moved.shape[:2], dtype=np.int64)
    for row, places in enumerate(moved):
        apart = lattice.minimum_image(lattice.cartesian(places[:, None] - fractions))
        target[row] = (apart**2).sum(-1).argmin(1)
    whole = (np.sort(target, axis=1) == np.arange(len(kinds))).all(1)
    return (
        Symmetry(rotations[whole], translations[whole], target[whole]) if whole.any() else Symmetry.identity(len(kinds))
    )


def _kinds(occupancy: FloatArray, tolerance: float) -> IntArray:
    """(N,) classes of sites whose occupancies (E, N) agree, each with the first of its class."""
    kinds = np.full(occupancy.shape[1], -1)
    while (kinds < 0).any():
        first = int(np.argmax(kinds < 0))
        same = np.abs(occupancy - occupancy[:, first : first + 1]).max(0) <= tolerance
        kinds[same & (kinds < 0)] = first + 1
    return kinds
