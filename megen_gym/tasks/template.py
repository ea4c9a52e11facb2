"""A template: a cell with numbered slots, some of which are taken from the start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

from megen_gym.errors import InputError
from megen_gym.periodic import Lattice
from megen_gym.structure import FloatArray, IntArray, check_symbols

EDGE = 1e-6
"""How far outside the cell, in units of a cell vector, an atom still counts as on its face."""


@dataclass(frozen=True, eq=False)
class Template:
    """N slots in a cell; the first `n_kept` hold an atom from the start and keep it.

    Attributes:
        lattice: Cell and periodic axes.
        positions: (N, 3) Å, inside the cell.
        species: (N,) index into `symbols`.
        symbols: X and the elements.
        n_kept: Slots that are filled when an episode begins.
        order: (N,) the number, in the structure given, of each slot; kept atoms come first.
    """

    lattice: Lattice
    positions: FloatArray
    species: IntArray
    symbols: tuple[str, ...]
    n_kept: int
    order: IntArray

    @classmethod
    def from_atoms(
        cls,
        atoms: Atoms,
        *,
        pbc: bool | Sequence[bool] | str | None = None,
        symbols: Sequence[str] | None = None,
        extra: Sequence[str] = (),
        keep: int | Sequence[int] = 0,
    ) -> Template:
        """Slots where `atoms` stand.

        Args:
            atoms: The structure; along periodic axes its atoms may lie outside the cell.
            pbc: Periodic axes, where they differ from those of `atoms`; see :func:`megen_gym.periodic.parse_pbc`.
            symbols: Elements in the order of the species index; by default those of `atoms` and `extra`.
            extra: Elements to know besides those of `atoms`.
            keep: Indices of the atoms that stay, or how many of the first ones.

        Raises:
            InputError: for a structure without atoms or cell, with positions that are not finite, or with an atom
                outside the cell along an axis that is not periodic; for an element outside `symbols`, or `keep` out of
                range.
        """
        if not len(atoms) or not np.isfinite(atoms.positions).all():
            raise InputError(
                f"the template has {len(atoms)} atoms, and none or some positions that are NaN or infinite; "
                "give a structure with finite positions"
            )
        cell = np.asarray(atoms.cell)
        zero = [axis for axis, vector in zip("abc", cell, strict=True) if not vector.any()]
        if zero:
            raise InputError(
                f"the template has no cell vector {' and '.join(zero)}; give all three, e.g. with "
                "atoms.center(vacuum=5) or, for a slab, atoms.center(vacuum=5, axis=2)"
            )
        lattice = Lattice(cell, atoms.pbc if pbc is None else pbc)
        fractions = lattice.fractional(np.asarray(atoms.positions, dtype=np.float64))
        outside = ((fractions < -EDGE) | (fractions > 1 + EDGE)) & ~np.array(lattice.pbc)
        if outside.any():
            row, axis = np.argwhere(outside)[0]
            raise InputError(
                f"atom {row} of the template lies outside the cell at {fractions[row, axis]:.3f} of the axis "
                f"{'abc'[axis]}, which is not periodic; shift the atoms into the cell, enlarge it, or make pbc true"
            )
        present = {str(name) for name in atoms.symbols} | set(extra)
        named = check_symbols(sorted(present, key=lambda name: atomic_numbers.get(name, 0)))
        names = named if symbols is None else check_symbols(symbols)
        if missing := sorted(set(named) - set(names)):
            raise InputError(f"element {', '.join(missing)} is not among symbols {','.join(names)}; add it to symbols")
        kept = kept_indices(keep, len(atoms))
        order = np.concatenate([kept, np.setdiff1d(np.arange(len(atoms)), kept)])
        index = np.array([names.index(name) for name in atoms.symbols], dtype=np.int64)
        return cls(lattice, lattice.wrap(atoms.positions[order]), index[order], names, len(kept), order)

    def __len__(self) -> int:
        return len(self.species)

    @property
    def shortest(self) -> float:
        """Å, smallest distance between two atoms or images; the bond by covalent radii for a lone atom."""
        near = self._first_neighbours()
        return float(near.min()) if len(near) else 2 * float(covalent_radii[atomic_numbers[self.symbols[-1]]])

    @property
    def widest(self) -> float:
        """Å, largest distance of an atom from its nearest neighbour."""
        near = self._first_neighbours()
        return float(near.max()) if len(near) else self.shortest

    def counts(self, free: bool = True) -> IntArray:
        """(S,) atoms of each symbol in the free slots, or in all."""
        return np.bincount(self.species[self.n_kept if free else 0 :], minlength=len(self.symbols)).astype(np.int64)

    def _first_neighbours(self) -> FloatArray:
        if len(self) == 1 and not any(self.lattice.pbc):
            return np.zeros(0)
        return np.asarray(self.lattice.nearest(self.positions, 1))


def kept_indices(keep: int | Sequence[int], atoms: int) -> IntArray:
    """Indices of the atoms that stay.

    Raises:
        InputError: for an index that does not exist or is named twice, or when no slot would be left.
    """
    chosen: Any = np.arange(keep) if isinstance(keep, int | np.integer) and keep >= 0 else np.atleast_1d(keep)
    if chosen.size == 0:
        return np.zeros(0, dtype=np.int64)
    whole = np.issubdtype(chosen.dtype, np.integer) and chosen.ndim == 1
    if not whole or chosen.min() < 0 or chosen.max() >= atoms or len(set(chosen.tolist())) != len(chosen):
        raise InputError(
            f"keep is {keep}; give indices from 0 to {atoms - 1} of template atoms, each once, or how many of the first"
        )
    if len(chosen) >= atoms:
        raise InputError(f"keep names all {atoms} atoms of the template; leave at least one slot free")
    return np.asarray(chosen, dtype=np.int64)


def repeated(atoms: Atoms, supercell: Sequence[int]) -> Atoms:
    """`atoms` repeated along the three cell vectors.

    Raises:
        InputError: for anything but three positive integers.
    """
    counts = () if isinstance(supercell, str) or not isinstance(supercell, Iterable) else tuple(supercell)
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 1 for n in counts)
    if len(counts) != 3 or not whole:
        raise InputError(f"supercell is {supercell!r}; give three positive integers, e.g. (2, 2, 2)")
    return atoms.repeat(counts) if counts != (1, 1, 1) else atoms
