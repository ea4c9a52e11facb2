"""Molecules in memory: padded arrays, centred and ordered as the trajectories of placements need them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from ase import Atoms
from ase.data import atomic_masses
from numpy.typing import ArrayLike

from megen_gym.errors import InputError
from megen_gym.structure import BoolArray, FloatArray, IntArray

NO_PBC = (False, False, False)

ALIKE = 6
"""Decimals (Å) to which distances from the centre are compared; atoms that are as far keep their order."""


@dataclass(frozen=True, eq=False)
class Molecules:
    """`M` molecules of up to `N` atoms.

    Attributes:
        positions: (M, N, 3) Å, zero where there is no atom. The origin is the centre of mass, and the atoms are in the
            order of their distance to it.
        numbers: (M, N) atomic numbers, 0 where there is no atom.
        properties: (M,) or (M, K) each.
        units: Of the properties, as converted; "" where there is none.
        rows: (M,) row in the file they are from.
        cells: (M, 3, 3) Å, rows are lattice vectors; None unless periodic.
        pbc: Periodic axes of all of them.
    """

    positions: FloatArray
    numbers: IntArray
    properties: dict[str, FloatArray]
    units: dict[str, str]
    rows: IntArray
    cells: FloatArray | None = field(default=None)
    pbc: tuple[bool, bool, bool] = NO_PBC

    def __post_init__(self) -> None:
        size = len(self.numbers)
        shapes = {name: values.shape for name, values in self.properties.items() if len(values) != size}
        if self.positions.shape != (*self.numbers.shape, 3) or self.rows.shape != (size,) or shapes:
            raise InputError(
                f"positions {self.positions.shape}, numbers {self.numbers.shape}, rows {self.rows.shape} and "
                f"properties {shapes} do not belong together; expected (M, N, 3), (M, N), (M,) and (M, ...)"
            )
        if any(self.pbc) and (self.cells is None or self.cells.shape != (size, 3, 3)):
            raise InputError(f"{size} molecules are periodic along {self.pbc}, but have no cell each; give (M, 3, 3)")

    @property
    def mask(self) -> BoolArray:
        """(M, N) true where there is an atom."""
        return self.numbers > 0

    @property
    def n_atoms(self) -> IntArray:
        """(M,) number of atoms."""
        return np.asarray(self.mask.sum(axis=1))

    @property
    def fingerprint(self) -> str:
        """Hash of the structures and their order; padding and properties do not matter."""
        parts = [self.n_atoms, self.numbers[self.mask], self.positions[self.mask], np.array(self.pbc)]
        parts += [] if self.cells is None else [self.cells]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(np.ascontiguousarray(part, "<f8" if part.dtype.kind == "f" else "<i8").tobytes())
        return digest.hexdigest()[:40]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: slice | ArrayLike) -> Molecules:
        """The molecules of `index` (slice, indices or mask), padded as before."""
        at = index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        if isinstance(at, np.ndarray) and not at.size:
            at = np.zeros(0, dtype=np.int64)
        return replace(
            self,
            positions=self.positions[at],
            numbers=self.numbers[at],
            properties={name: values[at] for name, values in self.properties.items()},
            rows=self.rows[at],
            cells=None if self.cells is None else self.cells[at],
        )

    def to_atoms(self) -> list[Atoms]:
        """One ``ase.Atoms`` per molecule, its properties in ``info``."""
        found = []
        for row, count in enumerate(self.n_atoms.tolist()):
            info = {name: values[row].tolist() for name, values in self.properties.items()}
            info = {name: np.array(value) if isinstance(value, list) else value for name, value in info.items()}
            cell = None if self.cells is None else self.cells[row]
            where, which = self.positions[row, :count].copy(), self.numbers[row, :count]
            found.append(Atoms(which, positions=where, cell=cell, pbc=self.pbc, info=info))
        return found

    @classmethod
    def from_atoms(
        cls,
        structures: Sequence[Atoms],
        properties: Mapping[str, ArrayLike] | None = None,
        units: Mapping[str, str] | None = None,
        rows: ArrayLike | None = None,
    ) -> Molecules:
        """Pad, centre and order structures.

        Args:
            structures: Of one kind of periodicity.
            properties: One value (or K values) for each.
            units: Of the properties.
            rows: (M,) where they are from; 0, 1, ... by default.

        Raises:
            InputError: for mixed periodicity.
        """
        kinds = {tuple(map(bool, atoms.pbc)) for atoms in structures} or {NO_PBC}
        if len(kinds) > 1:
            raise InputError(
                f"the structures differ in their periodicity ({', '.join(map(str, sorted(kinds)))}); "
                "make one file per kind"
            )
        pbc = kinds.pop()
        count = np.array([len(atoms) for atoms in structures], dtype=np.int64)
        numbers = np.concatenate([atoms.numbers for atoms in structures] or [np.zeros(0, dtype=np.int64)])
        positions = np.concatenate([atoms.positions for atoms in structures] or [np.zeros((0, 3))])
        cells = np.array([np.asarray(atoms.cell) for atoms in structures]).reshape(-1, 3, 3) if any(pbc) else None
        return cls.from_arrays(count, numbers, positions, properties, units, rows, cells, pbc)

    @classmethod
    def from_arrays(
        cls,
        n_atoms: IntArray,
        numbers: IntArray,
        positions: FloatArray,
        properties: Mapping[str, ArrayLike] | None = None,
        units: Mapping[str, str] | None = None,
        rows: ArrayLike | None = None,
        cells: FloatArray | None = None,
        pbc: tuple[bool, ...] = NO_PBC,
    ) -> Molecules:
        """Pad, centre and order atoms that stand one molecule after the other.

        Args:
            n_atoms: (M,).
            numbers: (A,) atomic numbers of all atoms.
            positions: (A, 3) Å.
            properties: (M,) or (M, K) each.
            units: Of the properties.
            rows: (M,); 0, 1, ... by default.
            cells: (M, 3, 3) Å where periodic.
            pbc: Periodic axes.

        Raises:
            InputError: for an atom without an element, or numbers that do not fit.
        """
        if (numbers < 1).any() or len(numbers) != n_atoms.sum():
            raise InputError(
                f"{len(numbers)} atoms with the smallest number {numbers.min(initial=1)} were given for molecules of "
                f"{n_atoms.sum()} atoms in all; give one atomic number from 1 for each"
            )
        here = np.arange(max(int(n_atoms.max(initial=0)), 1)) < n_atoms[:, None]
        species, places = np.zeros(here.shape, dtype=np.int64), np.zeros((*here.shape, 3))
        species[here], places[here] = numbers, positions
        masses = np.where(here, atomic_masses[species], 0.0)
        total = np.maximum(masses.sum(1), np.finfo(float).tiny)
        places -= (np.einsum("mn,mnx->mx", masses, places) / total[:, None])[:, None]
        places[~here] = 0
        distance = np.round(np.sqrt((places**2).sum(-1)), ALIKE)
        order = np.where(here, distance, np.inf).argsort(axis=1, kind="stable")
        first, second, third = (*map(bool, pbc),)
        return cls(
            np.take_along_axis(places, order[..., None], 1),
            np.take_along_axis(species, order, 1),
            {name: np.asarray(values, dtype=np.float64) for name, values in (properties or {}).items()},
            dict(units or {}),
            np.arange(len(n_atoms)) if rows is None else np.asarray(rows, dtype=np.int64),
            cells,
            (first, second, third),
        )
