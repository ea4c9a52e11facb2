"""Crystals as space group, Wyckoff sites and lattice: the description that is written site by site."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import ArrayLike

from megen_gym.errors import InputError
from megen_gym.lattices import cells_of, completed, family_of, parameters_of
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch
from megen_gym.wyckoff import LETTERS, space_group, symmetry_dataset, wyckoff_table

SYMPREC = 0.01
"""Å, within which atoms count as equivalent, as in CDVAE and CrystalFormer."""

SYMBOLS = ("X", *chemical_symbols[1:])
"""Elements by atomic number."""


@dataclass(frozen=True, eq=False)
class CrystalBatch:
    """`B` crystals of up to `K` Wyckoff sites in the settings of :mod:`megen_gym.wyckoff`, padded with X at the end.

    Attributes:
        group: (B,) space group number.
        letters: (B, K) 1 for a ... 27 for A; 0 where there is no site.
        elements: (B, K) atomic number; 0 (X) where there is no site.
        coordinates: (B, K, 3) representative of each site, fractional, in [0, 1).
        lattice: (B, 6) a, b, c in Å, alpha, beta, gamma in degrees, of the conventional cell.
    """

    group: IntArray
    letters: IntArray
    elements: IntArray
    coordinates: FloatArray
    lattice: FloatArray

    def __len__(self) -> int:
        return len(self.group)

    def __getitem__(self, rows: slice | ArrayLike) -> CrystalBatch:
        """The crystals of `rows` (slice, indices or mask), still a batch."""
        index = rows if isinstance(rows, slice) else np.atleast_1d(np.asarray(rows))
        if isinstance(index, np.ndarray) and not index.size:
            index = np.zeros(0, dtype=np.int64)
        return CrystalBatch(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def position(self) -> IntArray:
        """(B, K) row of :func:`megen_gym.wyckoff.wyckoff_table`; of letter a where there is no site."""
        return wyckoff_table().first[self.group][:, None] + np.maximum(self.letters - 1, 0)

    @property
    def multiplicity(self) -> IntArray:
        """(B, K) atoms of each site in the conventional cell; 0 where there is none."""
        return wyckoff_table().multiplicity[self.position] * (self.letters > 0)

    @property
    def n_sites(self) -> IntArray:
        """(B,) sites."""
        return np.asarray((self.letters > 0).sum(1))

    @property
    def n_atoms(self) -> IntArray:
        """(B,) atoms of the conventional cell."""
        return np.asarray(self.multiplicity.sum(1))

    def padded(self, n_max: int) -> CrystalBatch:
        """The same with K = `n_max` sites.

        Raises:
            InputError: where a crystal has more; says how many would do.
        """
        longest = int(self.n_sites.max(initial=0))
        if longest > n_max:
            raise InputError(f"n_max is {n_max}, but there is a crystal of {longest} sites; give n_max={longest}")
        more = max(n_max - self.letters.shape[1], 0)
        pad = ((0, 0), (0, more))
        return CrystalBatch(
            self.group,
            np.pad(self.letters[:, :n_max], pad),
            np.pad(self.elements[:, :n_max], pad),
            np.pad(self.coordinates[:, :n_max], (*pad, (0, 0))),
            self.lattice,
        )

    def ordered(self) -> CrystalBatch:
        """The same with the sites of each crystal sorted by letter, element, x, y and z."""
        last = np.where(self.letters > 0, self.letters, len(LETTERS) + 1)
        order = np.lexsort((*np.moveaxis(self.coordinates, 2, 0)[::-1], self.elements, last), axis=-1)
        letters, elements = (np.take_along_axis(array, order, 1) for array in (self.letters, self.elements))
        coordinates = np.take_along_axis(self.coordinates, order[..., None], 1)
        return CrystalBatch(self.group, letters, elements, coordinates, self.lattice)

    def structures(self) -> StructureBatch:
        """All atoms of the conventional cells, site by site; species are atomic numbers."""
        orbit, mask = wyckoff_table().expand(self.position, self.coordinates)
        mask = mask & (self.letters > 0)[..., None]
        row, site, _ = np.nonzero(mask)
        counts = self.n_atoms
        place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        fractions = np.zeros((len(self), int(counts.max(initial=0)), 3))
        species = np.zeros(fractions.shape[:2], dtype=np.int64)
        fractions[row, place], species[row, place] = orbit[mask], self.elements[row, site]
        cells = cells_of(self.lattice)
        return StructureBatch.trusted(fractions @ cells, species, SYMBOLS, cells, (True, True, True))

    def to_atoms(self) -> list[Atoms]:
        """One ``ase.Atoms`` per crystal, its space group in ``info["spacegroup"]``."""
        structures = self.structures().to_atoms()
        for atoms, group in zip(structures, self.group.tolist(), strict=True):
            atoms.info["spacegroup"] = group
        return structures

    def apart(self, distance: float) -> BoolArray:
        """(B,) whether all atoms, images included, are at least `distance` Å apart."""
        from megen_gym.tasks.contacts import apart

        size = self.multiplicity
        if not size.any():
            return np.ones(len(self), dtype=bool)
        own = np.where(size > 0, np.cumsum(size, 1) - size, -1)
        batch = self.structures()
        assert batch.cell is not None
        fractions = batch.positions @ np.linalg.inv(batch.cell)
        points = np.take_along_axis(fractions, np.maximum(own, 0)[..., None], 1)
        # operations of the group take the first atom of each site to the others
        return apart(batch.cell, points, own, fractions, batch.mask, distance)

    @classmethod
    def join(cls, batches: Iterable[CrystalBatch]) -> CrystalBatch:
        """One batch of several, as wide as the widest.

        Raises:
            InputError: for none at all.
        """
        parts = list(batches)
        if not parts:
            raise InputError("no crystals were given; expected at least one")
        width = max(part.letters.shape[1] for part in parts)
        parts = [part.padded(width) for part in parts]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    @classmethod
    def from_atoms(cls, structures: Sequence[Atoms], symprec: float = SYMPREC) -> CrystalBatch:
        """Describe each structure; see :func:`describe`."""
        return cls.join([describe(atoms, symprec) for atoms in structures])

    def names(self, row: int) -> str:
        """The sites of one crystal as text, e.g. ``"a Ba, b Ti, c O"``."""
        sites = zip(self.letters[row], self.elements[row], strict=True)
        return ", ".join(f"{LETTERS[letter - 1]} {SYMBOLS[element]}" for letter, element in sites if letter)


def describe(atoms: Atoms, symprec: float = SYMPREC) -> CrystalBatch:
    """The sites of one crystal, as spglib finds them: a batch of one.

    Sites are sorted by letter, element and coordinates. Of the equivalent points that have the form of the letter's
    representative, the first one by x, y, z stands for the site.

    Args:
        atoms: Periodic in all directions, every site fully occupied.
        symprec: Å.

    Raises:
        InputError: for a structure that is no such crystal, or whose symmetry spglib cannot make out.

    >>> from ase.build import bulk
    >>> crystal = describe(bulk("NaCl", "rocksalt", a=5.64))
    >>> int(crystal.group[0]), crystal.names(0), crystal.lattice[0, 0].round(2).item()
    (225, 'a Na, b Cl', 5.64)
    """
    finite = np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell[:]).all()  # spglib crashes at infinite cells
    if not (len(atoms) and all(atoms.pbc) and finite and abs(atoms.cell.volume) > 0.1):
        raise InputError(
            f"{atoms.get_chemical_formula() or 'a structure without atoms'} is no crystal; give atoms with finite "
            "positions in a cell that is periodic in three directions"
        )
    found = symmetry_dataset(atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers, symprec)
    if found is None:
        raise InputError(
            f"spglib finds no symmetry of {atoms.get_chemical_formula()} within symprec={symprec} Å; look for atoms "
            "that lie on one another, or give another symprec"
        )
    of_primitive = np.zeros(int(np.max(found.mapping_to_primitive)) + 1, dtype=np.int64)
    of_primitive[found.mapping_to_primitive] = np.arange(len(atoms))
    source = of_primitive[found.std_mapping_to_primitive]
    orbit = found.crystallographic_orbits[source]
    group = int(found.number)
    sites = []
    for index in np.unique(orbit):
        here = orbit == index
        letter = found.wyckoffs[source[here.argmax()]]
        place = _representative(space_group(group).position(letter), found.std_positions[here], symprec)
        if place is None:
            raise InputError(
                f"the sites of {atoms.get_chemical_formula()} do not fit space group {group} within "
                f"symprec={symprec} Å; give another symprec"
            )
        sites.append((LETTERS.index(letter) + 1, int(found.std_types[here.argmax()]), *place.tolist()))
    table = np.array(sorted(sites))
    lattice = completed(parameters_of(found.std_lattice), family_of(np.array(group)))
    return CrystalBatch(
        group=np.array([group]),
        letters=table[None, :, 0].astype(np.int64),
        elements=table[None, :, 1].astype(np.int64),
        coordinates=table[None, :, 2:],
        lattice=lattice[None],
    )


def _representative(position: int, points: FloatArray, symprec: float) -> FloatArray | None:
    """(3,) the point that the position's formula gives, of equivalent points (M, 3); None if there is none."""
    table = wyckoff_table()
    if len(points) != table.multiplicity[position]:
        return None
    points = np.round(points % 1.0, 12) % 1.0
    exact = table.representative(
        np.full(len(points), position), table.coordinates(np.full(len(points), position), points)
    )
    miss = exact - points
    fits = (np.abs(miss - np.rint(miss)) < max(symprec, 1e-3)).all(1)
    if not fits.any():
        return None
    exact = np.round(exact[fits] % 1.0, 12) % 1.0
    return np.asarray(exact[np.lexsort(exact.T[::-1])[0]])
