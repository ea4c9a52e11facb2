"""Space groups and their Wyckoff positions: letters, free coordinates, equivalent points.

Settings are spglib's defaults: unique axis b and cell choice 1, hexagonal axes for rhombohedral groups, origin choice
1. The letters are those of the International Tables; the representative of a position is one of its equivalent points,
not always the one that the Tables print first.
"""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from megen_gym.actions import Array, namespace
from megen_gym.errors import InputError, nearest
from megen_gym.images import alike
from megen_gym.lattices import FAMILIES, family_of
from megen_gym.structure import BoolArray, FloatArray, IntArray

LETTERS = "abcdefghijklmnopqrstuvwxyzA"
"""In the order of the International Tables; group 47 has all of them."""

FILE = Path(__file__).parent / "data" / "wyckoff.csv"
"""Derived from spglib by :mod:`megen_gym.derive_wyckoff`."""


class Orbit(NamedTuple):
    """Equivalent points.

    Attributes:
        fractions: (..., M, 3) coordinates in [0, 1); the representative is the first, 0 where there is none.
        mask: (..., M) where there is one.
    """

    fractions: Array
    mask: Array


@dataclass(frozen=True, eq=False)
class WyckoffTable:
    """The P = 1731 positions of the 230 groups, in the order of groups and letters.

    A position is an affine function of three coordinates, of which only the free ones count:
    ``representative = shift + coordinates @ basis``, where the rows of `basis` for the others are zero.

    Attributes:
        first: (231,) position "a" of each group; index 0 is unused.
        count: (231,) positions of each group; index 0 is unused.
        multiplicity: (P,) equivalent points in the conventional cell.
        free: (P, 3) which of x, y, z are free: (x,2x,z) is free in x and z.
        shift: (P, 3) representative where all free coordinates are 0.
        basis: (P, 3, 3) what a free coordinate (row) adds to the representative.
        formula: Representative of each position as text, e.g. ``"x,2x,1/4"``.
        maps: (P,) where the equivalent points begin in the two arrays below; there are `multiplicity`.
        map_shift: (E, 3) as `shift`, for each equivalent point, the representative first.
        map_basis: (E, 3, 3) as `basis`.
        rotations: (O, 3, 3) of the operations of all groups.
        translations: (O, 3).
        operations: (232,) where the operations of a group begin.
    """

    first: IntArray
    count: IntArray
    multiplicity: IntArray
    free: BoolArray
    shift: FloatArray
    basis: FloatArray
    formula: tuple[str, ...]
    maps: IntArray
    map_shift: FloatArray
    map_basis: FloatArray
    rotations: IntArray
    translations: FloatArray
    operations: IntArray

    @property
    def freedom(self) -> IntArray:
        """(P,) number of free coordinates, 0 ... 3."""
        return np.asarray(self.free.sum(1))

    def representative(self, position: Array, coordinates: Array) -> Array:
        """(..., 3) first point of each position (...,) for coordinates (..., 3); numpy or torch."""
        basis, shift = alike(self.basis, coordinates)[position], alike(self.shift, coordinates)[position]
        return shift + (coordinates[..., None, :] @ basis)[..., 0, :]

    def coordinates(self, position: Array, point: Array) -> Array:
        """(..., 3) what :meth:`representative` makes `point` of: its free coordinates, 0 for the others.

        A point that is not on the position's representative is moved onto it along the other axes.
        """
        return point * alike(self.free.astype(np.float64), point)[position]

    def expand(self, position: Array, coordinates: Array) -> Orbit:
        """All points equivalent to the representatives of positions (...,) with coordinates (..., 3).

        M is the largest multiplicity among `position`. Takes numpy arrays or torch tensors and answers in kind;
        torch results are differentiable.
        """
        xp = namespace(coordinates)
        multiplicity = alike_index(self.multiplicity, position)[position]
        width = int(multiplicity.max()) if len(multiplicity.reshape(-1)) else 0
        place = xp.arange(width, device=coordinates.device)
        mask = place < multiplicity[..., None]
        entry = alike_index(self.maps, position)[position][..., None] + xp.where(mask, place, 0 * place)
        point = alike(self.map_shift, coordinates)[entry]
        point = point + (coordinates[..., None, None, :] @ alike(self.map_basis, coordinates)[entry])[..., 0, :]
        point = point - xp.floor(point)
        return Orbit(xp.where(mask[..., None] & (point < 1), point, 0 * point), mask)


def alike_index(array: IntArray, like: Array) -> Array:
    """Integers as numpy or torch, where `like` is."""
    xp = namespace(like)
    return array if xp is np else xp.as_tensor(array, device=like.device)


@dataclass(frozen=True)
class SpaceGroup:
    """One group.

    Attributes:
        number: 1 ... 230.
        symbol: Short Hermann-Mauguin symbol, e.g. ``"Fm-3m"``.

    >>> group = space_group("Fm-3m")
    >>> group.number, group.family, group.letters[:3], group.multiplicity[:3].tolist(), group.formula[4]
    (225, 'cubic', 'abc', [4, 4, 8], 'x,0,0')
    """

    number: int
    symbol: str

    @property
    def family(self) -> str:
        """Crystal family, one of :data:`megen_gym.lattices.FAMILIES`; rhombohedral groups are hexagonal."""
        return FAMILIES[int(family_of(np.array(self.number)))]

    @property
    def positions(self) -> slice:
        """Rows of :func:`wyckoff_table`."""
        table = wyckoff_table()
        return slice(int(table.first[self.number]), int(table.first[self.number] + table.count[self.number]))

    @property
    def letters(self) -> str:
        """Of the L positions."""
        return LETTERS[: int(wyckoff_table().count[self.number])]

    @property
    def multiplicity(self) -> IntArray:
        """(L,) equivalent points."""
        return wyckoff_table().multiplicity[self.positions]

    @property
    def free(self) -> BoolArray:
        """(L, 3) which coordinates are free."""
        return wyckoff_table().free[self.positions]

    @property
    def formula(self) -> tuple[str, ...]:
        """Representatives as text."""
        return wyckoff_table().formula[self.positions]

    @property
    def operations(self) -> tuple[IntArray, FloatArray]:
        """Rotations (O, 3, 3) and translations (O, 3), centring included."""
        table = wyckoff_table()
        rows = slice(*table.operations[self.number : self.number + 2].tolist())
        return table.rotations[rows], table.translations[rows]

    def position(self, letter: str) -> int:
        """Row of :func:`wyckoff_table` of a letter.

        Raises:
            InputError: for a letter that the group does not have.
        """
        if len(letter) != 1 or letter not in self.letters:
            raise InputError(
                f"space group {self.number} ({self.symbol}) has no Wyckoff letter {letter!r}; "
                f"it has {self.letters[0]} to {self.letters[-1]}"
            )
        return int(self.positions.start) + self.letters.index(letter)


def space_group(name: int | str) -> SpaceGroup:
    """A space group by number or by short Hermann-Mauguin symbol; underscores and blanks do not matter.

    Raises:
        InputError: for anything else.

    >>> space_group("P21/c").number, space_group(1).symbol, space_group("194").symbol
    (14, 'P1', 'P6_3/mmc')
    """
    symbols = _symbols()
    if isinstance(name, str):
        plain = re.sub(r"[\s_]", "", name)
        if plain.isdigit():
            return space_group(int(plain))
        known = {re.sub("_", "", symbol): number for number, symbol in enumerate(symbols) if number}
        if plain not in known:
            raise InputError(
                f"unknown space group {name!r}; {nearest(plain, known)}; give a symbol such as Fm-3m, or 1 to 230"
            )
        name = known[plain]
    if isinstance(name, bool) or not isinstance(name, int | np.integer) or not 1 <= name <= 230:
        raise InputError(f"space group {name!r} does not exist; give a number from 1 to 230, or a symbol such as Fm-3m")
    return SpaceGroup(int(name), symbols[name])


@contextmanager
def quiet() -> Iterator[None]:
    """Without spglib's notice that its errors will become exceptions, and its lines on standard error for cells that it
    has to try twice."""
    before = os.environ.get("SPGLIB_WARNING")
    os.environ["SPGLIB_WARNING"] = "OFF"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        if before is None:
            del os.environ["SPGLIB_WARNING"]
        else:
            os.environ["SPGLIB_WARNING"] = before


def symmetry_dataset(cell: FloatArray, fractions: FloatArray, numbers: IntArray, symprec: float) -> Any:
    """spglib's dataset of a crystal; None where it finds none, also where spglib is set to raise instead.

    Args:
        cell: (3, 3) Å, rows are lattice vectors.
        fractions: (N, 3) fractional coordinates.
        numbers: (N,) atomic numbers.
        symprec: Å.
    """
    import spglib

    with quiet():
        try:
            return spglib.get_symmetry_dataset((cell.tolist(), fractions.tolist(), numbers.tolist()), symprec=symprec)
        except getattr(spglib, "SpglibError", ()):
            return None


@lru_cache(maxsize=1)
def _rows() -> tuple[dict[str, str], ...]:
    with FILE.open(newline="") as file:
        return tuple(csv.DictReader(file))


@lru_cache(maxsize=1)
def _settings() -> tuple[int, ...]:
    settings = {int(row["group"]): int(row["setting"]) for row in _rows()}
    return tuple(settings[number] for number in range(1, 231))


@lru_cache(maxsize=1)
def _symbols() -> tuple[str, ...]:
    import spglib

    with quiet():
        types = [spglib.get_spacegroup_type(setting) for setting in _settings()]
    return ("", *(str(kind.international_short) for kind in types if kind is not None))


@lru_cache(maxsize=1)
def wyckoff_table() -> WyckoffTable:
    """The table of all groups; read once."""
    import spglib

    rows = _rows()
    group = np.array([int(row["group"]) for row in rows])
    shift, basis = np.zeros((len(rows), 3)), np.zeros((len(rows), 3, 3))
    for index, row in enumerate(rows):
        shift[index], basis[index] = read_formula(row["representative"])
    multiplicity = np.array([int(row["multiplicity"]) for row in rows])
    count = np.bincount(group, minlength=231)
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    with quiet():
        found = [spglib.get_symmetry_from_database(setting) for setting in _settings()]
    rotations = [np.asarray(one["rotations"], dtype=np.int64) for one in found if one is not None]
    translations = [np.asarray(one["translations"], dtype=np.float64) for one in found if one is not None]
    map_shift, map_basis = [], []
    probe = np.array([0.13571, 0.26193, 0.41737])
    for number, (rotation, translation) in enumerate(zip(rotations, translations, strict=True), start=1):
        here = slice(first[number], first[number] + count[number])
        shifts = np.einsum("oij,lj->loi", rotation, shift[here]) + translation
        bases = np.einsum("oij,lkj->loki", rotation, basis[here])
        places = np.rint((shifts + probe @ bases) * 1e6).astype(np.int64) % 1_000_000
        keys = places @ np.array([10**12, 10**6, 1])
        for key, shift_of, basis_of in zip(keys, shifts, bases, strict=True):
            chosen = np.sort(np.unique(key, return_index=True)[1])
            map_shift.append(shift_of[chosen])
            map_basis.append(basis_of[chosen])
    sizes = np.array([len(part) for part in map_shift])
    if not np.array_equal(sizes, multiplicity):
        raise InputError(f"{FILE.name} does not fit this version of spglib; run python -m megen_gym.derive_wyckoff")
    return WyckoffTable(
        first=first,
        count=count,
        multiplicity=multiplicity,
        free=np.asarray(basis.any(2)),
        shift=shift,
        basis=basis,
        formula=tuple(row["representative"] for row in rows),
        maps=np.cumsum(sizes) - sizes,
        map_shift=np.concatenate(map_shift) % 1.0,
        map_basis=np.concatenate(map_basis),
        rotations=np.concatenate(rotations),
        translations=np.concatenate(translations),
        operations=np.cumsum([0, 0, *(len(part) for part in rotations)]),
    )


def read_formula(text: str) -> tuple[FloatArray, FloatArray]:
    """Shift (3,) and basis (3, 3) of a representative.

    >>> read_formula("x,-2x+1/2,1/4")[0].tolist()
    [0.0, 0.5, 0.25]
    """
    shift, basis = np.zeros(3), np.zeros((3, 3))
    for axis, part in enumerate(text.split(",")):
        for sign, number, name in re.findall(r"([+-]?)(\d*(?:/\d+)?)([xyz]?)", part):
            if not number and not name:
                continue
            above, _, below = number.partition("/")
            value = (-1 if sign == "-" else 1) * int(above or 1) / int(below or 1)
            if name:
                basis["xyz".index(name), axis] = value
            else:
                shift[axis] += value
    return shift, basis
