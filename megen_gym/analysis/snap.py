"""Atoms of an alloy put back on the sites of its lattice, and what is left empty."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from megen_gym.analysis.ensemble import CELL_TOLERANCE
from megen_gym.errors import InputError
from megen_gym.periodic import Lattice
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch

MARGIN = 0.8
"""Å between an atom and its site."""

VACANCIES = 0.05
"""Share of the sites that may stay empty in an accepted structure."""

_ANCHORS = 16

_REACH = 4.0


@dataclass(frozen=True)
class Occupation:
    """Which species sits on each of S sites, in B structures.

    Attributes:
        species: (B, S) index into `symbols`; 0 is a vacancy.
        symbols: Element of each index; `symbols[0]` is ``"X"``.
        removed: (B,) atoms that found no site: too far from all, or their site was taken by a nearer atom.
        shift: (B, 3) Å by which each structure was moved first.
        accepted: (B,) whether few enough sites are empty.
        sites: The lattice.
    """

    species: IntArray
    symbols: tuple[str, ...]
    removed: IntArray
    shift: FloatArray
    accepted: BoolArray
    sites: Atoms

    @property
    def vacancies(self) -> IntArray:
        """(B,) empty sites."""
        return np.asarray((self.species == 0).sum(axis=1))


def check_cell(structures: StructureBatch, sites: Atoms) -> None:
    """Refuse structures that have another cell than the lattice sites.

    Raises:
        InputError: naming the first such structure and both cells.
    """
    if structures.cell is None:
        return
    differ = np.abs(structures.cell - sites.cell.array).max(axis=(1, 2)) > CELL_TOLERANCE
    if differ.any():
        row = int(np.argmax(differ))
        raise InputError(
            f"structure {row} has the cell {np.round(structures.cell[row], 4).tolist()} Å, but the lattice sites have "
            f"{np.round(sites.cell.array, 4).tolist()}; scale it, or give sites in its cell"
        )


def snap(
    structures: StructureBatch,
    sites: Atoms,
    margin: float = MARGIN,
    max_vacancies: float = VACANCIES,
    translate: bool = False,
) -> Occupation:
    """Assign every atom to the site that is nearest to it, if that is within `margin`.

    Of several atoms at one site the nearest stays. With ``translate`` a structure is moved as a whole first: by the
    vector from one of its atoms to the nearest site that brings most atoms within the margin (in a lattice with one
    atom per primitive cell any site serves), then by the mean of what is left.

    Args:
        structures: B structures in the cell of `sites`.
        sites: The lattice; which elements it has does not matter.
        margin: Å.
        max_vacancies: Share of empty sites, 0-1, above which a structure is rejected.
        translate: Whether to look for the best rigid translation.

    Raises:
        InputError: naming the structure whose cell is not that of the sites, or for values out of range.
    """
    if not margin > 0 or not 0 <= max_vacancies <= 1:
        raise InputError(
            f"margin {margin} Å and max_vacancies {max_vacancies} do not describe a lattice match; expected a positive "
            "distance and a share between 0 and 1"
        )
    check_cell(structures, sites)
    lattice = Lattice(sites.cell.array, sites.pbc)
    near = _Sites(sites, lattice, margin)
    found = [
        _snap_one(
            np.asarray(structures.positions[row, mask], dtype=np.float64),
            structures.species[row, mask],
            near,
            translate,
        )
        for row, mask in enumerate(structures.mask)
    ]
    species = np.array([one[0] for one in found]).reshape(len(found), len(sites))
    accepted = (species == 0).mean(axis=1) <= max_vacancies
    removed, shift = np.array([one[1] for one in found]), np.array([one[2] for one in found]).reshape(-1, 3)
    return Occupation(species, structures.symbols, removed, shift, accepted, sites)


class _Sites:
    """A search tree of the sites and their images around the cell."""

    def __init__(self, sites: Atoms, lattice: Lattice, margin: float) -> None:
        from scipy.spatial import KDTree

        pad = np.where(lattice.pbc, max(margin, _REACH) / lattice.heights, 0.0)
        reach = np.ceil(pad).astype(np.int64)
        steps = np.array(list(itertools.product(*(range(-n, n + 1) for n in reach))), dtype=np.float64)
        fractions = lattice.fractional(lattice.wrap(sites.positions))
        images = fractions + steps[:, None]
        inside = ((images >= -pad) & (images <= 1 + pad) | ~np.array(lattice.pbc)).all(axis=2)
        self.index = np.broadcast_to(np.arange(len(sites)), inside.shape)[inside]
        self.places = lattice.cartesian(images[inside])
        self.tree = KDTree(self.places)
        self.lattice, self.margin, self.count = lattice, margin, len(sites)

    def nearest(self, positions: FloatArray) -> tuple[IntArray, FloatArray]:
        """(..., N) index of the nearest site, and the vector (..., N, 3) to it; exact up to 4 Å or the margin."""
        inside = self.lattice.wrap(positions)
        _, at = self.tree.query(inside)
        return self.index[at], self.places[at] - inside


def _snap_one(
    positions: FloatArray, species: IntArray, sites: _Sites, translate: bool
) -> tuple[IntArray, int, FloatArray]:
    """Species of each site, atoms without site, and the translation."""
    occupied, shift = np.zeros(sites.count, dtype=np.int64), np.zeros(3)
    if not len(positions):
        return occupied, 0, shift
    if translate:
        shift[:] = _best_shift(positions, sites)
    nearest, vector = sites.nearest(positions + shift)
    distance = np.linalg.norm(vector, axis=1)
    order = np.argsort(-distance, kind="stable")
    order = order[distance[order] <= sites.margin]
    occupied[nearest[order]] = species[order]
    return occupied, len(positions) - int((occupied > 0).sum()), shift


def _best_shift(positions: FloatArray, sites: _Sites) -> FloatArray:
    """The translation that brings most atoms close to sites; of equals the one with the smaller distances."""
    shifts: FloatArray = np.concatenate([np.zeros((1, 3)), sites.nearest(positions[:_ANCHORS])[1]])
    tried, scores = [], []
    for _ in range(2):
        _, rest = sites.nearest(positions + shifts[:, None])
        square = (rest**2).sum(axis=2)
        close = square <= sites.margin**2
        tried.append(shifts)
        scores.append(close.sum(axis=1) - (square * close).sum(axis=1) / (sites.margin**2 * (len(positions) + 1)))
        shifts = shifts + (rest * close[:, :, None]).sum(axis=1) / np.maximum(close.sum(axis=1), 1)[:, None]
    return np.asarray(np.concatenate(tried)[np.argmax(np.concatenate(scores))])
