"""Lennard-Jones clusters, whose global minima are known: the energy with which a search can be right."""

from __future__ import annotations

import numpy as np

from megen_gym.errors import InputError
from megen_gym.rewards.base import EnergyReward
from megen_gym.rules import is_number
from megen_gym.structure import FloatArray, StructureBatch

SIGMA = 2.361
"""Å; pairs are happiest at 2^(1/6) sigma = 2.65 Å, gallium's bond length, as with the calculator `lj`."""

CLOSEST = 0.1
"""In sigma; nearer atoms cost what they would cost here, so that every energy is finite."""

# fmt: off
GLOBAL_MINIMA = dict(enumerate((
    -1.0, -3.0, -6.0, -9.103852, -12.712062, -16.505384, -19.821489, -24.113360, -28.422532, -32.765970, -37.967600,
    -44.326801, -47.845157, -52.322627, -56.815742, -61.317995, -66.530949, -72.659782, -77.177043, -81.684571,
    -86.809782, -92.844472, -97.348815, -102.372663, -108.315616, -112.873584, -117.822402, -123.587371, -128.286571,
    -133.586422, -139.635524, -144.842719, -150.044528, -155.756643, -161.825363, -167.033672, -173.928427,
), start=2))
"""Energy in epsilon of the lowest known minimum by number of atoms, 2 to 38 (Wales and Doye, J. Phys. Chem. A 101, 5111
(1997), doi 10.1021/jp970984n, table 1)."""
# fmt: on


class LennardJones(EnergyReward):
    """Pays the energy that a placement releases when every pair has the Lennard-Jones energy, without a cut-off:
    ``E = 4 epsilon sum_(i<j) ((sigma / d_ij)^12 - (sigma / d_ij)^6)``.

    Elements do not matter. The lowest energies of 2 to 38 atoms are known (:data:`GLOBAL_MINIMA`), 13, 19, 26 and 38
    being the usual tests: 38 is hard, for its minimum is a piece of an fcc crystal in a world of icosahedra.

    Args:
        epsilon: Depth of the well; with 1 (the default) energies in "eV" are in units of epsilon.
        sigma: Å.
        invalid: Reward of a move that the task refuses.

    Raises:
        InputError: for numbers that are not positive.

    >>> from ase import Atoms
    >>> pair = Atoms("Ar2", [(0, 0, 0), (0, 0, 2 ** (1 / 6) * SIGMA)])
    >>> LennardJones().energy(StructureBatch.from_atoms([pair])).round(6).tolist()
    [-1.0]
    """

    has_forces = True

    def __init__(self, epsilon: float = 1.0, sigma: float = SIGMA, invalid: float = -1.0) -> None:
        for name, value in (("epsilon", epsilon), ("sigma", sigma)):
            if not is_number(value) or not 0 < value < np.inf:
                raise InputError(f"{name} is {value!r}; give a positive number")
        self.epsilon, self.sigma, self.invalid = float(epsilon), float(sigma), invalid
        self.unit = self.epsilon

    def energy(self, batch: StructureBatch) -> FloatArray:
        """(B,) eV.

        Raises:
            InputError: for periodic structures.
        """
        sixth, _, _ = self._pairs(batch)
        return np.asarray(2 * self.epsilon * (sixth * sixth - sixth).sum((1, 2)))

    def energy_forces(self, batch: StructureBatch) -> tuple[FloatArray, FloatArray, dict[int, str]]:
        """(B,) eV and (B, N, 3) eV/Å; there are no errors."""
        sixth, square, vectors = self._pairs(batch)
        energy = 2 * self.epsilon * (sixth * sixth - sixth).sum((1, 2))
        strength = 24 * self.epsilon * (2 * sixth * sixth - sixth) / square
        return energy, np.einsum("bij,bijx->bix", strength, vectors), {}

    def known_minimum(self, batch: StructureBatch) -> FloatArray:
        """(B,) eV, the lowest known energy of so many atoms; NaN beyond the table."""
        known = np.full(max(GLOBAL_MINIMA) + 2, np.nan)
        known[:2], known[list(GLOBAL_MINIMA)] = 0.0, list(GLOBAL_MINIMA.values())
        return np.asarray(self.epsilon * known[np.minimum(batch.n_atoms, len(known) - 1)])

    def _pairs(self, batch: StructureBatch) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(sigma / d)^6 (B, N, N), zero where there is no pair; d^2 (B, N, N) Å^2; and vectors (B, N, N, 3) Å."""
        if any(batch.pbc):
            raise InputError(
                "lennard_jones was given periodic structures but knows clusters only; use the calculator lj"
            )
        positions = batch.positions.astype(np.float64, copy=False)
        vectors = positions[:, :, None] - positions[:, None]
        square = np.maximum(np.einsum("bijx,bijx->bij", vectors, vectors), (CLOSEST * self.sigma) ** 2)
        mask = batch.mask
        pair = mask[:, :, None] & mask[:, None]
        index = np.arange(mask.shape[1])
        pair[:, index, index] = False
        return np.where(pair, (self.sigma**2 / square) ** 3, 0.0), square, vectors
