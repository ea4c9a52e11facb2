"""What all structures of a data set share: cell, periodicity and the element of every slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from megen_gym.errors import InputError
from megen_gym.io import file_format, read_structures
from megen_gym.periodic import Lattice
from megen_gym.structure import FloatArray, IntArray, StructureBatch

CELL_TOLERANCE = 1e-3
"""Å; lattice vectors that differ by less are one cell, written with other rounding."""


@dataclass(frozen=True, eq=False)
class System:
    """The fixed part of a data set.

    Networks see the atoms *grouped*: by element, in the order in which the elements first appear. Files keep the order
    of the first structure of the data set.

    Attributes:
        numbers: (N,) atomic numbers in the order of the file.
        cell: (3, 3) Å.
        pbc: Periodic axes.
    """

    numbers: IntArray
    cell: FloatArray
    pbc: tuple[bool, bool, bool]

    @classmethod
    def from_atoms(cls, atoms: Atoms) -> System:
        """The system that `atoms` is an instance of."""
        return cls(atoms.numbers.astype(np.int64), np.array(atoms.cell), tuple(bool(p) for p in atoms.pbc))  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> System:
        """The inverse of :meth:`to_json`."""
        return cls(np.array(data["numbers"]), np.array(data["cell"], dtype=float), tuple(data["pbc"]))

    def to_json(self) -> dict[str, Any]:
        """Numbers, cell and periodicity as lists."""
        return {"numbers": self.numbers.tolist(), "cell": self.cell.tolist(), "pbc": list(self.pbc)}

    @cached_property
    def elements(self) -> IntArray:
        """(E,) atomic numbers, in the order of their first appearance."""
        found, first = np.unique(self.numbers, return_index=True)
        return found[np.argsort(first)]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Atoms of each element."""
        return tuple(int((self.numbers == z).sum()) for z in self.elements)

    @cached_property
    def order(self) -> IntArray:
        """(N,) place in the file of each grouped atom."""
        return self.grouping(self.numbers)

    @cached_property
    def lattice(self) -> Lattice:
        """Geometry of the cell."""
        return Lattice(self.cell, self.pbc)

    @property
    def formula(self) -> str:
        """Such as Cu27Au27."""
        return "".join(f"{chemical_symbols[z]}{n}" for z, n in zip(self.elements, self.counts, strict=True))

    def grouping(self, numbers: NDArray[Any]) -> IntArray:
        """(..., N) the order that groups atoms with `numbers` (..., N) by element, and keeps it within an element."""
        rank = np.zeros(int(self.elements.max()) + 1, dtype=np.int64)
        rank[self.elements] = np.arange(len(self.elements))
        return np.argsort(rank[numbers], axis=-1, kind="stable")

    def batch(self, fractions: FloatArray) -> StructureBatch:
        """Structures in the order of the file, wrapped into the cell, from grouped fractions (B, N, 3)."""
        symbols = ("X", *(chemical_symbols[z] for z in self.elements))
        positions = np.empty(fractions.shape)
        positions[:, self.order] = self.lattice.wrap(self.lattice.cartesian(fractions.astype(np.float64)))
        species = np.searchsorted(np.sort(self.elements), self.numbers)
        species = np.argsort(self.elements)[species] + 1
        size = len(fractions)
        cells = np.broadcast_to(self.cell, (size, 3, 3))
        return StructureBatch.trusted(
            positions, np.broadcast_to(species, (size, len(species))), symbols, cells, self.pbc
        )

    def check(self, atoms: Atoms, name: str) -> None:
        """Refuse a structure that is no instance of the system.

        Raises:
            InputError: naming the structure and what differs.
        """
        if len(atoms) != len(self.numbers):
            raise InputError(
                f"{name} has {len(atoms)} atoms, the first one has {len(self.numbers)}; "
                "give structures of one composition, or train one model for each"
            )
        if (np.sort(atoms.numbers) != np.sort(self.numbers)).any():
            raise InputError(
                f"{name} is {atoms.get_chemical_formula()}, the first one is {self.formula}; "
                "give structures of one composition, or train one model for each"
            )
        if tuple(bool(p) for p in atoms.pbc) != self.pbc:
            raise InputError(
                f"{name} has pbc {atoms.pbc.tolist()}, the first one has {list(self.pbc)}; "
                "write all with one periodicity"
            )
        if np.abs(np.array(atoms.cell) - self.cell).max() > CELL_TOLERANCE:
            raise InputError(
                f"{name} has the cell {np.round(np.array(atoms.cell), 4).tolist()} Å, the first one "
                f"{np.round(self.cell, 4).tolist()} Å; give structures that share one cell"
            )

    def fractions(self, structures: Sequence[Atoms], source: str = "the data") -> FloatArray:
        """Grouped fractional coordinates (B, N, 3) in [0, 1) of instances of the system.

        Raises:
            InputError: for a structure that is none, or has an atom outside the cell along an axis that is not
                periodic.
        """
        result = np.empty((len(structures), len(self.numbers), 3))
        for row, atoms in enumerate(structures):
            self.check(atoms, f"structure {row} of {source}")
            result[row] = self.lattice.fractional(self.lattice.wrap(atoms.positions))[self.grouping(atoms.numbers)]
        outside = (((result < -1e-9) | (result > 1 + 1e-9)) & ~np.array(self.pbc)).any((1, 2))
        if outside.any():
            raise InputError(
                f"structure {int(outside.argmax())} of {source} has an atom outside the cell along an axis that is not "
                "periodic; shift the atoms into the cell or enlarge it"
            )
        return result.clip(0, 1)


def read_training(path: str | Path, pbc: str | None = None) -> tuple[System, FloatArray]:
    """A data set: what all structures share, and their grouped fractions (B, N, 3).

    Args:
        path: A file, or a folder whose structure files are all read, with those of the folders in it.
        pbc: Periodic axes, such as TTF, instead of those of the files.

    Raises:
        InputError: for files that cannot be read, or structures that differ in cell, composition or periodicity.
    """
    folders = [Path(path), *sorted(p for p in Path(path).rglob("*") if p.is_dir())]
    filled = [folder for folder in folders if any(p.is_file() and file_format(p) for p in folder.glob("[!.]*"))]
    structures = [atoms for place in filled or [Path(path)] for atoms in read_structures(place)]
    for atoms in structures if pbc is not None else ():
        atoms.pbc = [axis == "T" for axis in pbc or ""]
    if not structures[0].cell.rank == 3:  # type: ignore[no-untyped-call]
        raise InputError(
            f"structure 0 of {path} has no cell; give periodic structures (extxyz with Lattice, CIF, POSCAR)"
        )
    if len(structures[0]) < 2:
        raise InputError(f"structure 0 of {path} has {len(structures[0])} atom; give structures of at least 2 atoms")
    system = System.from_atoms(structures[0])
    return system, system.fractions(structures, str(path))
