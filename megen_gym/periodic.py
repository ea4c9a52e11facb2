"""Distances in periodic cells: exact for skewed and thin cells, for any choice of periodic axes.

All functions take numpy arrays and torch tensors alike and answer in kind; torch results are differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from ase.geometry import complete_cell
from numpy.typing import ArrayLike

from megen_gym.actions import Array, namespace
from megen_gym.errors import InputError
from megen_gym.images import Images, alike, length, nearer_side, no_gradient, outward
from megen_gym.structure import FloatArray


def parse_pbc(value: object) -> tuple[bool, bool, bool]:
    """Periodic axes from one answer for all of them, from three, or from three letters T and F.

    Raises:
        InputError: for anything else.

    >>> parse_pbc("TTF"), parse_pbc([1, 1, 0]) == parse_pbc("TTF"), parse_pbc(True)
    ((True, True, False), True, (True, True, True))
    """
    given: Any = [{"T": True, "F": False}.get(letter) for letter in value] if isinstance(value, str) else value
    several = isinstance(given, list | tuple) or (isinstance(given, np.ndarray) and given.ndim > 0)
    flags = list(given) if several else [given] * 3
    if len(flags) != 3 or not all(isinstance(x, bool | np.bool_ | int | np.integer) and x in (0, 1) for x in flags):
        raise InputError(
            f"pbc is {value!r}, which does not say what axes are periodic; give true or false, three of them, "
            "or three letters such as 'TTF'"
        )
    first, second, third = map(bool, flags)
    return first, second, third


@dataclass(frozen=True, eq=False, init=False)
class Lattice:
    """A cell and the axes along which it repeats.

    Args:
        cell: (3, 3) Å, rows are lattice vectors; along axes that are not periodic they may be zero.
        pbc: Periodic axes, see :func:`parse_pbc`.

    Attributes:
        cell: (3, 3) Å; zero vectors replaced by unit vectors at right angles to the others.

    Raises:
        InputError: for a cell of another shape, with numbers that are not finite, or without volume; for unclear pbc.

    >>> thin = Lattice(np.diag([2.5, 2.5, 20.0]), (True, True, True))
    >>> thin.nearest(np.zeros((1, 3)), 6).round(3).tolist()
    [[2.5, 2.5, 2.5, 2.5, 3.536, 3.536]]
    """

    cell: FloatArray
    pbc: tuple[bool, bool, bool]
    _inverse: FloatArray
    _images: Images

    def __init__(self, cell: ArrayLike, pbc: bool | Sequence[bool] | str | ArrayLike = True) -> None:
        given, periodic = np.array(cell, dtype=np.float64), np.array(parse_pbc(pbc))
        if given.shape != (3, 3) or not np.isfinite(given).all():
            raise InputError(
                f"a lattice was given a cell of shape {given.shape}, or with numbers that are not finite; "
                "expected three finite lattice vectors (rows, Å)"
            )
        size = np.linalg.norm(given, axis=1)
        full = np.asarray(complete_cell(given))
        if not size[periodic].all() or abs(np.linalg.det(full)) < 1e-9 * np.linalg.norm(full, axis=1).prod():
            raise InputError(
                f"the cell {given.tolist()} (Å) with pbc {periodic.tolist()} spans no volume; "
                "give vectors that are not in one plane, and no zero vector along a periodic axis"
            )
        self.__dict__.update(
            cell=full,
            pbc=tuple(periodic.tolist()),
            _inverse=np.linalg.inv(full),
            _images=Images(given[periodic]),
        )

    @property
    def volume(self) -> float:
        """Å³ of the cell; for a zero vector counts one of 1 Å."""
        return float(abs(np.linalg.det(self.cell)))

    @property
    def heights(self) -> FloatArray:
        """(3,) Å between opposite faces of the cell."""
        return np.asarray(1 / np.linalg.norm(self._inverse, axis=0))

    def fractional(self, positions: Array) -> Array:
        """(..., 3) coordinates in units of the lattice vectors from positions (..., 3) in Å."""
        return positions @ alike(self._inverse, positions)

    def cartesian(self, fractions: Array) -> Array:
        """(..., 3) Å from coordinates (..., 3) in units of the lattice vectors."""
        return fractions @ alike(self.cell, fractions)

    def wrap(self, positions: Array) -> Array:
        """(..., 3) Å, moved by lattice vectors into the cell along the periodic axes; those inside stay to the bit."""
        xp = namespace(positions)
        with no_gradient(positions):
            fractions = self.fractional(positions)
            shift = xp.floor(fractions)
            shift = shift + (fractions - shift >= 1)
            shift = shift * alike(np.array(self.pbc), positions)
        return positions - self.cartesian(shift)

    def minimum_image(self, vectors: Array) -> Array:
        """The shortest periodic image (..., 3) of each vector (..., 3), Å."""
        with no_gradient(vectors):
            excess = self._images.excess(vectors.reshape(-1, 3)).reshape(vectors.shape)
        return vectors - excess

    def distances(self, positions: Array) -> Array:
        """(..., N, N) Å between the nearest images of the atoms at (..., N, 3); 0 on the diagonal.

        The gradient of a distance of zero is zero.
        """
        return length(self.minimum_image(positions[..., :, None, :] - positions[..., None, :, :]))

    def nearest(self, positions: Array, k: int) -> Array:
        """(..., N, k) Å from every atom to its k nearest neighbours, ascending.

        Neighbours are the other atoms and all periodic images, those of the atom itself included. The neighbours are
        found without gradient; the distances to them carry one, which is zero for a distance of zero.

        Args:
            positions: (..., N, 3) Å.
            k: Neighbours of each atom.

        Raises:
            InputError: for k < 1, or more neighbours than there are where nothing is periodic.
        """
        atoms = int(positions.shape[-2])
        if k < 1 or (k >= atoms and atoms and not any(self.pbc)):
            raise InputError(
                f"{k} nearest neighbours were asked for of {atoms} atoms with pbc {list(self.pbc)}; "
                f"give 1 to {atoms - 1}, or periodic axes"
            )
        if 0 in positions.shape:
            return positions[..., :1] @ alike(np.ones((1, k)), positions)
        xp, flat = namespace(positions), positions.reshape(-1, atoms, 3)
        with no_gradient(positions):
            other, shift = self._images.neighbours(flat, k)
        rows = alike(np.arange(len(flat)), flat)[:, None, None]
        vectors = flat[rows, other] - flat[:, :, None] + shift
        found = length(vectors).reshape(*positions.shape[:-1], k)
        return np.sort(found, -1) if xp is np else found.sort(-1).values

    def images(self, vectors: Array, reach: float) -> Array:
        """(..., I, 3) Å, periodic images of the vectors (..., 3), among them all that are not longer than `reach` Å.

        The first is near the shortest: that of the zero vector is the zero vector.

        Raises:
            InputError: for a reach that is not a finite number, unless nothing is periodic.
        """
        if any(self.pbc) and not math.isfinite(reach):
            raise InputError(f"images up to {reach} Å were asked for in a periodic cell; give a finite distance")
        xp, found = namespace(vectors), self._images
        counts = found.counts(reach) if any(self.pbc) else np.zeros(0, dtype=np.int64)
        with no_gradient(vectors):
            fractions = vectors @ alike(found.dual, vectors)
            home = xp.round(fractions)
            steps = nearer_side(fractions - home)[..., None, :] * alike(outward(counts), vectors)
            shift = (steps - home[..., None, :]) @ alike(found.basis, vectors)
        return vectors[..., None, :] + shift


@lru_cache(maxsize=256)
def lattice_of(cell: bytes, pbc: tuple[bool, bool, bool]) -> Lattice:
    """The lattice of the bytes of a (3, 3) float64 cell, Å; the same object for the same cell.

    >>> lattice_of(np.eye(3).tobytes(), (True, True, True)).volume
    1.0
    """
    return Lattice(np.frombuffer(cell).reshape(3, 3), pbc)
