"""The one container of atoms that tasks, rewards, generators, analysis and files exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import ArrayLike, NDArray

from megen_gym.errors import InputError, nearest

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
BoolArray = NDArray[np.bool_]

EMPTY = "X"
"""The null atom: index 0 of every `symbols` tuple."""


def check_symbols(symbols: Sequence[str]) -> tuple[str, ...]:
    """`symbols` as a tuple that begins with X and names each known element once.

    Raises:
        InputError: for an unknown or a repeated element.

    >>> check_symbols(["Ga"])
    ('X', 'Ga')
    """
    names = tuple(symbols.split(",") if isinstance(symbols, str) else symbols)
    names = names if names[:1] == (EMPTY,) else (EMPTY, *names)
    for name in names[1:]:
        if name not in atomic_numbers or name == EMPTY:
            hint = nearest(name, chemical_symbols[1:])
            raise InputError(f"unknown element {name!r} in symbols {','.join(names)}; {hint}")
    if len(set(names)) != len(names):
        raise InputError(f"an element is named twice in symbols {','.join(names)}; name each once")
    if len(names) < 2:
        raise InputError("symbols names no element; give at least one, e.g. X,Ga")
    return names


@dataclass(frozen=True, eq=False)
class StructureBatch:
    """`B` structures of up to `N` atoms, padded at the end of each row.

    Attributes:
        positions: (B, N, 3) Å, float32 or float64; zero where there is no atom.
        species: (B, N) index into `symbols`; 0 is X, no atom.
        symbols: Element of each index; `symbols[0]` is ``"X"``.
        cell: (B, 3, 3) Å, rows are lattice vectors; None for clusters and molecules.
        pbc: (3,) periodicity along the lattice vectors.

    Raises:
        InputError: for wrong shapes, an index without a symbol, an atom behind a gap, or a position that is not finite.

    >>> from ase.build import molecule
    >>> batch = StructureBatch.from_atoms([molecule("H2O"), molecule("H2")])
    >>> batch.symbols, batch.n_atoms.tolist()
    (('X', 'H', 'O'), [3, 2])
    """

    positions: FloatArray
    species: IntArray
    symbols: tuple[str, ...]
    cell: FloatArray | None = None
    pbc: tuple[bool, bool, bool] = (False, False, False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", check_symbols(self.symbols))
        shape = self.species.shape
        if self.positions.shape != (*shape, 3) or len(shape) != 2:
            raise InputError(
                f"positions {self.positions.shape} and species {shape} do not belong together; "
                "expected (B, N, 3) and (B, N)"
            )
        if self.cell is not None and self.cell.shape != (shape[0], 3, 3):
            raise InputError(f"cell has shape {self.cell.shape}; expected {(shape[0], 3, 3)}, rows are lattice vectors")
        if self.species.size and not 0 <= self.species.min() <= self.species.max() < len(self.symbols):
            raise InputError(f"species index outside 0..{len(self.symbols) - 1} of symbols {','.join(self.symbols)}")
        mask = self.species > 0
        if np.any(mask[:, 1:] & ~mask[:, :-1]):
            row = int(np.argmax(np.any(mask[:, 1:] & ~mask[:, :-1], axis=1)))
            raise InputError(f"structure {row} has an atom behind an empty slot; put the padding (species 0) last")
        if not np.isfinite(self.positions).all():
            row = int(np.argmin(np.isfinite(self.positions).all(axis=(1, 2))))
            raise InputError(f"structure {row} has positions that are NaN or infinite; repair or remove it")

    def __len__(self) -> int:
        return len(self.species)

    def __getitem__(self, rows: slice | ArrayLike) -> StructureBatch:
        """The structures of `rows` (slice, indices or mask), still a batch."""
        index = rows if isinstance(rows, slice) else np.atleast_1d(np.asarray(rows))
        if isinstance(index, np.ndarray) and not index.size:
            index = np.zeros(0, dtype=np.int64)
        cell = None if self.cell is None else self.cell[index]
        return self.trusted(self.positions[index], self.species[index], self.symbols, cell, self.pbc)

    @property
    def mask(self) -> BoolArray:
        """(B, N) true where there is an atom."""
        return self.species > 0

    @property
    def n_atoms(self) -> IntArray:
        """(B,) number of atoms."""
        return np.asarray(self.mask.sum(axis=1))

    @property
    def numbers(self) -> IntArray:
        """(B, N) atomic numbers, 0 for X."""
        return np.asarray(np.array([atomic_numbers[name] for name in self.symbols])[self.species])

    @classmethod
    def from_atoms(
        cls,
        structures: Sequence[Atoms],
        symbols: Sequence[str] | None = None,
        dtype: type[np.floating[Any]] = np.float64,
    ) -> StructureBatch:
        """Pad a list of ``ase.Atoms`` to one batch.

        Args:
            structures: One or more structures that share periodicity.
            symbols: Species order; by default X and the elements present, by atomic number.
            dtype: Floating type of the positions.

        Raises:
            InputError: for an empty list, an element outside `symbols`, mixed periodicity, or non-finite positions.
        """
        structures = [structures] if isinstance(structures, Atoms) else list(structures)
        if not structures:
            raise InputError("no structures were given; expected at least one ase.Atoms")
        numbers = np.unique(np.concatenate([atoms.numbers for atoms in structures]))
        present = [chemical_symbols[z] for z in numbers if z > 0]
        names = check_symbols(symbols if symbols is not None else present or ["H"])
        missing = sorted(set(present) - set(names))
        if missing:
            raise InputError(f"element {', '.join(missing)} is not among symbols {','.join(names)}; add it to symbols")
        pbc = tuple(bool(p) for p in structures[0].pbc)
        if any(tuple(atoms.pbc) != pbc for atoms in structures):
            raise InputError("the structures differ in periodicity; make one batch per kind of periodicity")
        lookup = np.zeros(len(chemical_symbols), dtype=np.int64)
        lookup[[atomic_numbers[name] for name in names]] = np.arange(len(names))
        width = max(len(atoms) for atoms in structures)
        positions = np.zeros((len(structures), width, 3), dtype=dtype)
        species = np.zeros((len(structures), width), dtype=np.int64)
        for row, atoms in enumerate(structures):
            positions[row, : len(atoms)] = atoms.positions
            species[row, : len(atoms)] = lookup[atoms.numbers]
        cell = np.stack([np.asarray(atoms.cell) for atoms in structures]).astype(dtype) if any(pbc) else None
        return cls(positions, species, names, cell, pbc)  # type: ignore[arg-type]

    def to_atoms(self) -> list[Atoms]:
        """One ``ase.Atoms`` per structure, padding removed."""
        numbers = self.numbers
        return [
            Atoms(
                numbers[row, :count],
                positions=self.positions[row, :count],
                cell=None if self.cell is None else self.cell[row],
                pbc=self.pbc,
            )
            for row, count in enumerate(self.n_atoms)
        ]

    @classmethod
    def trusted(
        cls,
        positions: FloatArray,
        species: IntArray,
        symbols: tuple[str, ...],
        cell: FloatArray | None = None,
        pbc: tuple[bool, bool, bool] = (False, False, False),
    ) -> StructureBatch:
        """A batch without the checks: for arrays that this library made itself, on hot paths."""
        batch = object.__new__(cls)
        batch.__dict__.update(positions=positions, species=species, symbols=symbols, cell=cell, pbc=pbc)
        return batch
