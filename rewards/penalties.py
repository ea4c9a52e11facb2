"""Cheap geometric terms about the atom that was just placed: contacts, neighbours, distance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase.data import covalent_radii

from megen_gym.errors import InputError
from megen_gym.near import within
from megen_gym.rewards.base import Known, Outcome, Reward
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch

CLASH = 0.85
"""Atoms closer than this times the sum of their covalent radii touch (Ga-Ga: 2.07 Å)."""

BOND = 1.25
"""Atoms closer than this times the sum of their covalent radii are neighbours (Ga-Ga: 3.05 Å)."""

SOFT = 0.5
"""Å over which a neighbour fades out beyond the bonding distance."""


def placed(before: StructureBatch, after: StructureBatch) -> BoolArray:
    """(B,) whether `after` has an atom that `before` has not (false after a stop)."""
    return after.n_atoms > before.n_atoms


class Neighbours(NamedTuple):
    """What the last atoms of B structures have around them, one entry per neighbour.

    Attributes:
        structure: (E,) the structure.
        distance: (E,) Å.
        radii: (E,) Å, sum of the covalent radii of both atoms.
    """

    structure: IntArray
    distance: FloatArray
    radii: FloatArray


def new_neighbours(after: StructureBatch, reach: float = np.inf) -> Neighbours:
    """The other atoms, and the periodic images of all, that are nearer than `reach` to the last atom of each structure.

    Args:
        after: The structures, whose cells may all be different.
        reach: Å.

    Raises:
        InputError: for an infinite reach where structures are periodic, and for cells that span no volume.
    """
    structure, atom = np.nonzero(after.mask)
    last = np.maximum(after.n_atoms - 1, 0)[structure]
    positions = after.positions.astype(np.float64, copy=False)
    vectors = positions[structure, atom] - positions[structure, last]
    cells = np.zeros((len(after), 3, 3)) if after.cell is None else after.cell
    pbc = (False, False, False) if after.cell is None else after.pbc
    index, distance = within(cells, pbc, structure, vectors, atom == last, reach)
    found, numbers = structure[index], after.numbers
    radii = covalent_radii[numbers[found, atom[index]]] + covalent_radii[numbers[found, last[index]]]
    return Neighbours(found, distance, radii)


class ContactReward(Reward):
    """Penalty for touching other atoms, and optionally a reward for having neighbours.

    value = -strength sum_j max(0, 1 - d_j/d_clash)^2 + neighbour min(sum_j s(d_j), max_neighbours), where d_j are the
    distances of the new atom to all others (periodic images included) and s is 1 up to the bonding distance and falls
    smoothly (cosine) to 0 over the next 0.5 Å. Continuous with its first derivative; no unit unless `strength` has one.

    Args:
        strength: Penalty for a full overlap (d = 0) with one atom.
        cutoff: Å, d_clash for all pairs; by default 0.85 times the sum of the covalent radii.
        neighbour: Reward per neighbour; 0 for none.
        bond_distance: Å for all pairs; by default 1.25 times the sum of the covalent radii.
        max_neighbours: Neighbours beyond this number do not pay.
        invalid: Reward of a move that the task refuses.

    Raises:
        InputError: for a negative strength or count, or a distance that is not positive.
    """

    def __init__(
        self,
        strength: float = 1.0,
        cutoff: float | None = None,
        neighbour: float = 0.0,
        bond_distance: float | None = None,
        max_neighbours: float = 12.0,
        invalid: float = -1.0,
    ) -> None:
        for name, value in (("cutoff", cutoff), ("bond_distance", bond_distance)):
            if value is not None and not 0 < value < np.inf:
                raise InputError(f"{name} is {value}; expected Å > 0, or null for a multiple of the covalent radii")
        if not (strength >= 0 and max_neighbours >= 0 and np.isfinite(neighbour)):
            raise InputError(
                f"strength {strength}, neighbour {neighbour}, max_neighbours {max_neighbours} cannot be used; "
                "expected strength >= 0, a finite neighbour and max_neighbours >= 0"
            )
        self.strength, self.cutoff = strength, cutoff
        self.neighbour, self.bond_distance, self.max_neighbours = neighbour, bond_distance, max_neighbours
        self.invalid = invalid

    def __call__(self, before: StructureBatch, after: StructureBatch, known: Known | None = None) -> Outcome:
        largest = 2.0 * covalent_radii[after.numbers].max(initial=0.0)
        bond_reach = (self.bond_distance or BOND * largest) + SOFT if self.neighbour else 0.0
        near = new_neighbours(after, max(self.cutoff or CLASH * largest, bond_reach))
        clash = np.maximum(near.radii * CLASH if self.cutoff is None else self.cutoff, 1e-9)
        new = placed(before, after)
        overlap = np.clip(1.0 - near.distance / clash, 0.0, None) ** 2
        contacts = -self.strength * np.bincount(near.structure, overlap, len(after)) * new
        terms: dict[str, FloatArray] = {"overlap": contacts}
        value = contacts
        if self.neighbour:
            bond = near.radii * BOND if self.bond_distance is None else self.bond_distance
            fade = 0.5 * (1.0 + np.cos(np.pi * np.clip((near.distance - bond) / SOFT, 0.0, 1.0)))
            count = 1.0 * np.bincount(near.structure, fade, len(after)) * new
            terms["neighbours"] = count
            value = value + self.neighbour * np.minimum(count, self.max_neighbours)
        return Outcome(value, terms)


class DistanceReward(Reward):
    """Penalty for placing atoms far out.

    value = -coef |x - c| - solo_coef max(0, d_min - max_solo), where x is the new atom, c the centroid of the canvas
    before and d_min the distance to the nearest atom; 0 on an empty canvas. MeGen pays the first term with
    0.1 hartree/Å = 2.72 eV/Å (Mach. Learn.: Sci. Technol. 4, 025032), several times what separates the energies of
    clusters of one size; the second follows MolGym's max_solo_distance, softly.

    Args:
        coef: Per Å from the centroid (eV/Å when added to an energy reward).
        max_solo: Å; an atom farther than this from all others pays the second term. None switches it off.
        solo_coef: Per Å beyond `max_solo`.
        invalid: Reward of a move that the task refuses.

    Raises:
        InputError: for a coefficient that is not finite or a `max_solo` that is not positive; when called with a
            periodic structure, whose centroid is not defined.
    """

    def __init__(
        self, coef: float = 0.1, max_solo: float | None = None, solo_coef: float = 1.0, invalid: float = -1.0
    ) -> None:
        if not (np.isfinite(coef) and np.isfinite(solo_coef) and (max_solo is None or 0 < max_solo < np.inf)):
            raise InputError(
                f"coef {coef}, solo_coef {solo_coef}, max_solo {max_solo} cannot be used; "
                "expected finite coefficients and max_solo in Å > 0, or null"
            )
        self.coef, self.max_solo, self.solo_coef, self.invalid = coef, max_solo, solo_coef, invalid

    def __call__(self, before: StructureBatch, after: StructureBatch, known: Known | None = None) -> Outcome:
        if any(after.pbc):
            raise InputError(
                "the reward 'distance' was given periodic structures, which have no centroid; use 'contacts'"
            )
        counts = before.n_atoms
        rated = placed(before, after) & (counts > 0)
        total = (before.positions * before.mask[:, :, None]).sum(1, dtype=np.float64)
        centroid = total / np.maximum(counts, 1)[:, None]
        point = after.positions[np.arange(len(after)), np.maximum(after.n_atoms - 1, 0)]
        distance = np.where(rated, np.linalg.norm(point - centroid, axis=1), 0.0)
        terms = {"centroid_distance": distance}
        value = -self.coef * distance
        if self.max_solo is not None:
            near = new_neighbours(after)
            nearest: FloatArray = np.full(len(after), np.inf)
            np.minimum.at(nearest, near.structure, near.distance)
            terms["solo_distance"] = np.maximum(np.where(rated, nearest, 0.0) - self.max_solo, 0.0)
            value = value - self.solo_coef * terms["solo_distance"]
        return Outcome(value, terms)
