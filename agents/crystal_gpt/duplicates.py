"""Which crystals are the same one, whatever the cell, the origin, the numbering and the hand.

Crystals are compared by the distances from their atoms to the nearest neighbours of each element (pointwise distance
distributions: Widdowson & Kurlin, NeurIPS 2022; their means, which come first as the cheaper test, are the average
minimum distances of Widdowson et al., MATCH 87, 529, 2022). They change continuously with the crystal, so that there
is no jump where symmetry is nearly reached. A mirror image counts as the same crystal.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from scipy.optimize import linear_sum_assignment, linprog

from megen_gym.crystals import CrystalBatch
from megen_gym.errors import InputError
from megen_gym.periodic import Lattice
from megen_gym.structure import FloatArray, IntArray

TOLERANCE = 0.01
"""Largest difference of two crystals, in units of the cube root of the volume per atom (about 0.03 Å)."""

VOLUME = 0.02
"""Largest relative difference of the volumes per atom; what remains is scaled away."""

NEIGHBOURS = 32
"""Of an atom, shared among the elements as the formula has them."""

FEWEST = 4
"""Neighbours of each element, however rare."""

_ROUND = 1e-6
"""Distances (of unit volume per atom) that differ by less are written as one."""

_ROWS = 512
"""Rows of an assignment problem; beyond them a linear programme with weights is quicker."""

_CHUNK = 256


@dataclass(frozen=True, eq=False)
class _Points:
    """One crystal: (N, 3) positions and (N,) atomic numbers; the M atoms that stand for all, and (M,) for how many."""

    cell: FloatArray
    positions: FloatArray
    numbers: IntArray
    centres: IntArray
    weights: IntArray

    @property
    def volume(self) -> float:
        """Å³ per atom."""
        return float(abs(np.linalg.det(self.cell))) / len(self.numbers)


@dataclass(frozen=True, eq=False)
class _Print:
    """Distances of one crystal, for every element of the formula in order: rows (R, K), and how often each is there.

    Attributes:
        mean: (E, K) average over the atoms of each element.
    """

    volume: float
    rows: tuple[FloatArray, ...]
    weights: tuple[IntArray, ...]
    mean: FloatArray


def first_equal(
    crystals: CrystalBatch | Sequence[Atoms], tolerance: float = TOLERANCE, volume: float = VOLUME
) -> IntArray:
    """(B,) for each crystal the index of the first one that is the same; its own where there is none before it.

    Equal are crystals of the same reduced formula whose volumes per atom agree and whose distances, both scaled to the
    same volume, can be moved into one another by less than the tolerance: root mean square over the 32 nearest
    neighbours, averaged over the atoms.

    Args:
        crystals: Any cells, supercells too.
        tolerance: In units of the cube root of the volume per atom.
        volume: Relative.

    Raises:
        InputError: for a negative tolerance.

    >>> from ase.build import bulk
    >>> cubic = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    >>> large = bulk("NaCl", "rocksalt", a=5.8)
    >>> first_equal([bulk("NaCl", "rocksalt", a=5.65), cubic, cubic.repeat(2), large]).tolist()
    [0, 0, 0, 3]
    """
    if not (tolerance >= 0 and volume >= 0):
        raise InputError(f"tolerances are {tolerance} and {volume}; give numbers from 0")
    formulas = defaultdict(list)
    for row, formula in enumerate(_formulas(crystals)):
        formulas[formula].append(row)
    first = np.arange(len(crystals))
    for formula, members in formulas.items():
        if len(members) == 1:
            continue
        found = [_print(points, formula) for points in _points(crystals, members)]
        first[members] = np.array(members)[_first(found, np.array([share for _, share in formula]), tolerance, volume)]
    return first


def _formulas(crystals: CrystalBatch | Sequence[Atoms]) -> Iterator[tuple[tuple[int, int], ...]]:
    """Atomic number and share of every element, reduced."""
    counts: Iterable[tuple[IntArray, IntArray]]
    if isinstance(crystals, CrystalBatch):
        counts = zip(crystals.elements, crystals.multiplicity, strict=True)
    else:
        counts = ((atoms.numbers, np.ones(len(atoms), dtype=np.int64)) for atoms in crystals)
    for numbers, weights in counts:
        total = np.bincount(numbers, weights).astype(np.int64)
        total[:1] = 0
        there = np.flatnonzero(total)
        divisor = np.gcd.reduce(total[there]) if len(there) else 1
        yield tuple(zip(there.tolist(), (total[there] // divisor).tolist(), strict=True))


def _points(crystals: CrystalBatch | Sequence[Atoms], rows: list[int]) -> Iterator[_Points]:
    if not isinstance(crystals, CrystalBatch):
        for atoms in (crystals[row] for row in rows):
            every = np.arange(len(atoms))
            yield _Points(atoms.cell[:], atoms.positions, atoms.numbers, every, np.ones_like(every))
        return
    for begin in range(0, len(rows), _CHUNK):
        part = crystals[rows[begin : begin + _CHUNK]]
        structures, multiplicity, counts = part.structures(), part.multiplicity, part.n_atoms
        assert structures.cell is not None
        cells = np.broadcast_to(structures.cell, (len(part), 3, 3))
        for row, (count, weights) in enumerate(zip(counts.tolist(), multiplicity, strict=True)):
            weights = weights[weights > 0]
            numbers = structures.species[row, :count]
            centres = np.cumsum(weights) - weights
            yield _Points(cells[row], structures.positions[row, :count], numbers, centres, weights)


def _print(points: _Points, formula: tuple[tuple[int, int], ...]) -> _Print:
    total = sum(share for _, share in formula)
    wanted = {number: max(FEWEST, math.ceil(NEIGHBOURS * share / total)) for number, share in formula}
    lattice = Lattice(points.cell)
    scale = points.volume ** (1 / 3)
    reach = 1.2 * scale * (3 * NEIGHBOURS / (4 * math.pi)) ** (1 / 3)
    vectors = points.positions[None] - points.positions[points.centres][:, None]
    while (found := _nearest(lattice, vectors, points.numbers, wanted, reach)) is None:
        reach *= 1.25
    found /= scale
    rows, weights = [], []
    for number, _ in formula:
        here = points.numbers[points.centres] == number
        alike = np.unique(np.rint(found[here] / _ROUND), axis=0, return_index=True, return_inverse=True)
        rows.append(found[here][alike[1]])
        weights.append(np.bincount(alike[2].ravel(), points.weights[here]).astype(np.int64))
    mean = np.stack([w @ row / w.sum() for w, row in zip(weights, rows, strict=True)])
    reduced = [w // np.gcd.reduce(w) for w in weights]
    return _Print(points.volume, tuple(rows), tuple(reduced), mean)


def _nearest(
    lattice: Lattice, vectors: FloatArray, numbers: IntArray, wanted: dict[int, int], reach: float
) -> FloatArray | None:
    """(M, K) Å to the nearest neighbours of each element in turn; None if `reach` holds too few of them."""
    images = lattice.images(vectors, reach)
    distances = np.sqrt(np.einsum("mnix,mnix->mni", images, images))
    distances[distances < 1e-3] = np.inf
    parts = []
    for number, count in wanted.items():
        of_element = distances[:, numbers == number].reshape(len(vectors), -1)
        if of_element.shape[1] < count:
            return None
        parts.append(np.sort(np.partition(of_element, count - 1)[:, :count]))
    found = np.concatenate(parts, 1)
    return found if found.max() <= reach else None


def _first(found: list[_Print], shares: IntArray, tolerance: float, volume: float) -> IntArray:
    """(n,) index of the first equal one among crystals of one formula."""
    means, volumes = np.stack([one.mean for one in found]), np.array([one.volume for one in found])
    share = shares / shares.sum()
    first = np.arange(len(found))
    known = np.zeros(len(found), dtype=np.int64)
    count = 0
    for row, one in enumerate(found):
        near = known[:count][np.abs(volumes[known[:count]] / one.volume - 1) <= volume]
        apart = np.sqrt(((means[near] - one.mean) ** 2).mean(-1)) @ share
        for other in near[apart <= tolerance].tolist():
            if _difference(one, found[other], share) <= tolerance:
                first[row] = other
                break
        else:
            known[count] = row
            count += 1
    return first


def _difference(one: _Print, other: _Print, share: FloatArray) -> float:
    """Earth mover's distance, atoms of each element among themselves."""
    parts = zip(one.rows, one.weights, other.rows, other.weights, strict=True)
    return float(sum(part * _moved(*both) for part, both in zip(share.tolist(), parts, strict=True)))


def _moved(rows: FloatArray, weights: IntArray, others: FloatArray, other_weights: IntArray) -> float:
    cost = np.sqrt(((rows[:, None] - others[None]) ** 2).mean(-1))
    if 1 in cost.shape:
        return float((weights @ cost @ other_weights) / (weights.sum() * other_weights.sum()))
    total, other_total = int(weights.sum()), int(other_weights.sum())
    size = math.lcm(total, other_total)
    if size <= _ROWS:
        cost = cost.repeat(weights * (size // total), 0).repeat(other_weights * (size // other_total), 1)
        return float(cost[linear_sum_assignment(cost)].mean())
    here, there = np.indices(cost.shape).reshape(2, -1)
    sums = np.concatenate([here == np.arange(len(rows))[:, None], there == np.arange(len(others))[:, None]])
    limits = np.concatenate([weights / total, other_weights / other_total])
    return float(linprog(cost.ravel(), A_eq=sums, b_eq=limits).fun)
