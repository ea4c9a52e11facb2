"""Structures of one system (one cell, one composition) and what is measured on them, each thing once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from ase import Atoms

from megen_gym.errors import InputError
from megen_gym.periodic import Lattice
from megen_gym.structure import FloatArray, IntArray, StructureBatch

CELL_TOLERANCE = 1e-3
"""Å by which the lattice vectors of structures of one system may differ."""

VALID = 0.8
"""Share of the reference's shortest distance that a valid structure keeps everywhere."""

NEIGHBOURS = 6

_CHUNK = 1 << 22


def _same_cells(batch: StructureBatch, cell: FloatArray | None, name: str) -> FloatArray:
    """The cell (3, 3) that all structures share; zeros where there is none."""
    if batch.cell is None:
        return np.zeros((3, 3))
    wanted = batch.cell[0] if cell is None else cell
    differ = np.abs(batch.cell - wanted).max(axis=(1, 2)) > CELL_TOLERANCE
    if differ.any():
        row = int(np.argmax(differ))
        raise InputError(
            f"structure {row} of {name} has the cell {np.round(batch.cell[row], 4).tolist()} Å instead of "
            f"{np.round(wanted, 4).tolist()}; all structures must have one cell, leave it out or convert it"
        )
    return np.asarray(wanted, dtype=np.float64)


def _formula(numbers: IntArray) -> str:
    return str(Atoms(numbers[numbers > 0]).get_chemical_formula())  # type: ignore[no-untyped-call]


def _sorted(batch: StructureBatch, numbers: IntArray | None, name: str) -> StructureBatch:
    """The atoms of every structure by atomic number, in their old order within an element."""
    count = int(batch.n_atoms[0]) if numbers is None else len(numbers)
    found = np.where(batch.mask, batch.numbers, 1000)
    order = np.argsort(found, axis=1, kind="stable")[:, : max(count, 1)]
    ranked = np.take_along_axis(batch.numbers, order, axis=1)
    wanted = ranked[0] if numbers is None else numbers
    same = batch.n_atoms == count
    if ranked.shape[1] == count:
        same = same & (ranked == wanted).all(axis=1)
    if not same.all():
        row = int(np.argmin(same))
        raise InputError(
            f"structure {row} of {name} is {_formula(batch.numbers[row]) or 'empty'} instead of "
            f"{_formula(wanted)}; all structures must have one composition, leave it out"
        )
    positions = np.take_along_axis(batch.positions, order[:, :, None], axis=1)
    species = np.take_along_axis(batch.species, order, axis=1)
    return StructureBatch.trusted(positions, species, batch.symbols, batch.cell, batch.pbc)


def _widest_gap(fractions: FloatArray) -> float:
    """The middle of the widest gap between points of a circle of circumference 1, from -0.5 to 0.5."""
    points = np.sort(fractions - np.floor(fractions), axis=None)
    gaps = np.diff(points, append=points[0] + 1)
    widest = int(np.argmax(gaps))
    middle = float(points[widest] + gaps[widest] / 2)
    return middle - float(np.round(middle))


class Ensemble:
    """B structures of N atoms that share cell, periodicity and composition.

    What is measured on them is computed when it is first asked for, and kept.

    Args:
        structures: A batch or a list of ``ase.Atoms``; the order of the atoms does not matter.
        like: An ensemble whose system this one must have.
        name: What the structures are called in messages.

    Attributes:
        batch: The structures, atoms sorted by atomic number.
        lattice: Their cell.
        elements: Symbol of each element, by atomic number.

    Raises:
        InputError: naming the structure, for another cell, composition, number of atoms or periodicity, or NaN.
    """

    batch: StructureBatch
    lattice: Lattice
    _cell: FloatArray

    def __init__(
        self, structures: StructureBatch | Sequence[Atoms], like: Ensemble | None = None, name: str = "the structures"
    ) -> None:
        if not len(structures):
            raise InputError(f"there is no structure in {name}; give at least one")
        given = structures if isinstance(structures, StructureBatch) else _batch(structures, name)
        if not np.isfinite(given.positions).all():
            raise InputError(f"{name} have positions that are NaN or infinite; leave those out")
        if like is not None and tuple(given.pbc) != tuple(like.batch.pbc):
            raise InputError(
                f"{name} have periodicity {given.pbc} instead of {like.batch.pbc}; set their pbc to the latter"
            )
        cell = _same_cells(given, None if like is None else like._cell, name)
        self._cell = cell
        self.batch = _sorted(given, None if like is None else like.numbers, name)
        if not self.batch.species.shape[1]:
            raise InputError(f"{name} have no atoms; give structures of at least one atom")
        self.numbers: IntArray = self.batch.numbers[0]
        self.lattice = Lattice(cell, self.batch.pbc) if like is None else like.lattice
        kinds = np.unique(self.numbers)
        self.elements = tuple(_formula(kinds[[i]]) for i in range(len(kinds)))
        self._measured: dict[str, FloatArray] = {}
        self.columns = tuple(np.flatnonzero(self.numbers == kind) for kind in kinds)

    def __len__(self) -> int:
        return len(self.batch)

    def measured(self, name: str, measure: Callable[[Ensemble], FloatArray]) -> FloatArray:
        """What `measure` says of this ensemble, computed when `name` is first asked for."""
        if name not in self._measured:
            self._measured[name] = measure(self)
        return self._measured[name]

    @cached_property
    def nearest(self) -> FloatArray:
        """(B, N, 6) Å from every atom to its nearest neighbours, fewer where a cluster has no six."""
        k = NEIGHBOURS if any(self.batch.pbc) else min(NEIGHBOURS, len(self.numbers) - 1)
        if k < 1:
            raise InputError(
                "a single atom without periodicity has no neighbours; give structures of two atoms or more"
            )
        return np.asarray(self.lattice.nearest(self.batch.positions, k))

    @cached_property
    def min_distances(self) -> FloatArray:
        """(B,) Å, the shortest distance in each structure, periodic images included."""
        return np.asarray(self.nearest[:, :, 0].min(axis=1))

    def pairs_below(self, limit: float) -> IntArray:
        """(B,) number of pairs of atoms closer than `limit` (Å), each pair by its nearest images."""
        first, second = np.triu_indices(len(self.numbers), 1)
        size = max(1, _CHUNK // max(1, len(self.numbers) ** 2))
        counts = [
            (self.lattice.distances(self.batch.positions[at : at + size])[:, first, second] < limit).sum(axis=1)
            for at in range(0, len(self), size)
        ]
        return np.asarray(np.concatenate(counts))

    def cut(self, axis: int = 2) -> float:
        """Where heights along a periodic axis begin, in units of the lattice vector, from -0.5 to 0.5.

        It is the middle of the widest gap between the fractional heights of all atoms of all structures, so that where
        the cell begins does not matter.
        """
        return float(self.measured(f"cut {axis}", lambda _: np.array(_widest_gap(self._fractions(axis)))))

    def heights(self, axis: int = 2, cut: float | None = None) -> list[FloatArray]:
        """One array (B, n) per element: Å along the normal of the cell's face.

        Args:
            axis: Number of the lattice vector that leaves the face.
            cut: Along a periodic axis heights lie between this and 1 more, in units of the lattice vector; by default
                :meth:`cut`. Sets that are compared need the same one.
        """
        fractions = self._fractions(axis)
        if self.batch.pbc[axis]:
            begin = self.cut(axis) if cut is None else cut
            fractions = fractions - np.floor(fractions - begin)
        height = float(self.lattice.heights[axis])
        return [np.asarray(fractions[:, columns] * height) for columns in self.columns]

    def _fractions(self, axis: int) -> FloatArray:
        """(B, N) coordinates along one lattice vector."""
        if axis not in (0, 1, 2):
            raise InputError(f"there is no axis {axis}; expected 0, 1 or 2, the number of a lattice vector")
        return np.asarray(self.lattice.fractional(np.asarray(self.batch.positions, dtype=np.float64))[:, :, axis])


class Reference(Ensemble):
    """The structures that others are compared with, usually the training set; compute it once.

    >>> from ase.build import bulk
    >>> reference = Reference([bulk("Cu", cubic=True)])
    >>> round(reference.min_distance, 3), reference.elements
    (2.553, ('Cu',))
    """

    def __init__(self, structures: StructureBatch | Sequence[Atoms], name: str = "the reference") -> None:
        super().__init__(structures, name=name)

    @cached_property
    def min_distance(self) -> float:
        """Å, the shortest distance that occurs."""
        return float(self.min_distances.min())

    @property
    def valid_distance(self) -> float:
        """Å that all distances of a valid structure reach: 80 % of the shortest one that occurs here."""
        return VALID * self.min_distance

    @cached_property
    def sorted_nearest(self) -> FloatArray:
        """(R * N,) Å ascending: distances from all atoms to their nearest neighbours."""
        return np.sort(self.nearest[:, :, 0], axis=None)

    @cached_property
    def sorted_heights(self) -> list[FloatArray]:
        """Å ascending, per element: heights of all atoms along the third axis."""
        return [np.sort(values, axis=None) for values in self.heights(2)]

    def ensemble(
        self, structures: StructureBatch | Sequence[Atoms], name: str = "the generated structures"
    ) -> Ensemble:
        """Other structures of the same system; itself if it is already one.

        Raises:
            InputError: naming the structure that has another cell, composition or periodicity.
        """
        return structures if isinstance(structures, Ensemble) else Ensemble(structures, like=self, name=name)


def _batch(structures: Sequence[Atoms], name: str) -> StructureBatch:
    for index, atoms in enumerate(structures):
        if not np.isfinite(atoms.positions).all():
            raise InputError(f"structure {index} of {name} has positions that are NaN or infinite; leave it out")
    return StructureBatch.from_atoms(structures)
