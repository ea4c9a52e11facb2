"""Crystal families, their free lattice parameters, and the range of lattices that an action can choose from.

Lattice parameters are six numbers a, b, c (Å), alpha, beta, gamma (degrees), in the last axis of an array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megen_gym.errors import InputError, nearest
from megen_gym.structure import BoolArray, FloatArray, IntArray

FAMILIES = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "hexagonal", "cubic")
"""In the order of the family index; rhombohedral groups are hexagonal, in hexagonal axes."""

FREE: BoolArray = np.array(
    [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0], [1] + [0] * 5],
    dtype=bool,
)
"""(6, 6) which of a, b, c, alpha, beta, gamma each family is free in."""

_LAST = np.array([2, 15, 74, 142, 194, 230])
_LIKE_A = np.array([[0, 0], [0, 0], [0, 0], [1, 0], [1, 0], [1, 1]], dtype=bool)

FLATTEST = 0.1
"""Smallest volume of a cell over the product of its edges that :class:`LatticeRange` makes."""


def family_of(group: IntArray) -> IntArray:
    """(...) index into :data:`FAMILIES` of space group numbers (...).

    >>> FAMILIES[int(family_of(np.array(166)))]
    'hexagonal'
    """
    return np.searchsorted(_LAST, group)


def family_index(family: str) -> int:
    """Index of a family by name.

    Raises:
        InputError: for an unknown name.
    """
    if family not in FAMILIES:
        raise InputError(f"unknown crystal family {family!r}; {nearest(family, FAMILIES)}")
    return FAMILIES.index(family)


def free_parameters(parameters: FloatArray, family: str) -> FloatArray:
    """(..., F) the free ones of the parameters (..., 6) of one family.

    >>> free_parameters(np.array([3.0, 3.0, 5.0, 90.0, 90.0, 120.0]), "hexagonal").tolist()
    [3.0, 5.0]
    """
    return np.asarray(parameters)[..., FREE[family_index(family)]]


def from_free(numbers: FloatArray, family: str) -> FloatArray:
    """(..., 6) parameters from the free ones (..., F) of one family; the inverse of :func:`free_parameters`.

    Raises:
        InputError: for another number of them.
    """
    index, given = family_index(family), np.asarray(numbers, dtype=np.float64)
    if given.shape[-1:] != (FREE[index].sum(),):
        raise InputError(
            f"{given.shape[-1] if given.ndim else 'a single number for'} free parameters of a {family} lattice were "
            f"given; expected {FREE[index].sum()}"
        )
    parameters = np.ones((*given.shape[:-1], 6))
    parameters[..., FREE[index]] = given
    return completed(parameters, np.array(index))


def completed(parameters: FloatArray, family: IntArray) -> FloatArray:
    """(..., 6) parameters with the dependent ones of families (...) set: b = a, 90°, 120° and so on."""
    like_a, free = _LIKE_A[family], FREE[family]
    shape = np.broadcast_shapes(np.shape(parameters), free.shape)
    whole = np.array(np.broadcast_to(parameters, shape), dtype=np.float64)
    whole[..., 1:3] = np.where(like_a, whole[..., :1], whole[..., 1:3])
    angles = np.where(free[..., 3:], whole[..., 3:], 90.0)
    angles[..., 2] = np.where(family == FAMILIES.index("hexagonal"), 120.0, angles[..., 2])
    whole[..., 3:] = angles
    return whole


def fullness(angles: FloatArray) -> FloatArray:
    """(...) volume over a b c of cells with angles (..., 3) in degrees; NaN where no cell has them."""
    cosine = np.cos(np.deg2rad(angles))
    square = 1 - (cosine**2).sum(-1) + 2 * cosine.prod(-1)
    return np.sqrt(np.where(square >= 0, square, np.nan))


def cells_of(parameters: FloatArray) -> FloatArray:
    """(..., 3, 3) Å, rows are lattice vectors, from parameters (..., 6); a along x, b in the xy plane."""
    a, b, c = np.moveaxis(parameters[..., :3], -1, 0)
    angles = np.deg2rad(parameters[..., 3:])
    cosine = np.where(np.abs(parameters[..., 3:] - 90) < 1e-12, 0.0, np.cos(angles))
    sine = np.sin(angles[..., 2])
    height = np.sqrt(np.maximum(1 - (cosine**2).sum(-1) + 2 * cosine.prod(-1), 0)) / sine
    cell = np.zeros((*parameters.shape[:-1], 3, 3))
    cell[..., 0, 0] = a
    cell[..., 1, 0], cell[..., 1, 1] = b * cosine[..., 2], b * sine
    cell[..., 2, 0] = c * cosine[..., 1]
    cell[..., 2, 1] = c * (cosine[..., 0] - cosine[..., 1] * cosine[..., 2]) / sine
    cell[..., 2, 2] = c * height
    return cell


def parameters_of(cells: FloatArray) -> FloatArray:
    """(..., 6) parameters of cells (..., 3, 3)."""
    lengths = np.linalg.norm(cells, axis=-1)
    unit = cells / lengths[..., None]
    cosine = np.stack([(unit[..., i, :] * unit[..., j, :]).sum(-1) for i, j in ((1, 2), (0, 2), (0, 1))], -1)
    return np.concatenate([lengths, np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))], -1)


@dataclass(frozen=True)
class LatticeRange:
    """Six numbers in [-1, 1] <-> lattice parameters of a family; only the free numbers of the family count.

    In order: logarithm of the volume, of b/a, of c/a, and the three angles. Every choice is a cell with volume: angles
    that would make it flatter than 0.1 of the product of its edges are drawn together towards 90°.

    Attributes:
        volume: Å³ per atom, smallest and largest.
        aspect: Largest ratio of b or c to a, and of a to them.
        angles: Degrees, smallest and largest.
    """

    volume: tuple[float, float] = (5.0, 60.0)
    aspect: float = 8.0
    angles: tuple[float, float] = (40.0, 140.0)

    def __post_init__(self) -> None:
        for name in ("volume", "angles"):
            object.__setattr__(self, name, _pair(name, getattr(self, name)))
        if not (self.volume[0] > 0 and math.isfinite(self.volume[1]) and 1 < self.aspect < math.inf):
            raise InputError(
                f"volume range {self.volume} Å³ per atom with a largest aspect of {self.aspect} cannot be used; "
                "give positive volumes and an aspect above 1"
            )
        if not 10 <= self.angles[0] < 90 < self.angles[1] <= 170:
            raise InputError(
                f"angle range {self.angles} cannot be used; give degrees from 10 to 170 on both sides of 90"
            )

    def longest(self, n_atoms: int) -> float:
        """Å, no edge of a cell of `n_atoms` is longer."""
        return float(self.aspect * (self.volume[1] * n_atoms / FLATTEST) ** (1 / 3))

    def decode(self, numbers: FloatArray, family: IntArray, fewest: IntArray, most: IntArray) -> FloatArray:
        """(B, 6) lattice parameters.

        Args:
            numbers: (B, 6), clamped to [-1, 1].
            family: (B,) index into :data:`FAMILIES`.
            fewest, most: (B,) atoms that the smallest and the largest volume are meant for.
        """
        numbers = np.clip(numbers, -1.0, 1.0)
        low, high = np.log(self.volume[0] * fewest), np.log(self.volume[1] * most)
        volume = np.exp(low + (numbers[:, 0] + 1) / 2 * (high - low))
        parameters: FloatArray = np.ones((len(numbers), 6))
        parameters[:, 1:3] = self.aspect ** numbers[:, 1:3]
        middle, half = sum(self.angles) / 2, (self.angles[1] - self.angles[0]) / 2
        parameters[:, 3:] = middle + half * numbers[:, 3:]
        parameters = completed(parameters, family)
        parameters[:, 3:] = _not_flat(parameters[:, 3:])
        a = (volume / (parameters[:, 1] * parameters[:, 2] * fullness(parameters[:, 3:]))) ** (1 / 3)
        parameters[:, :3] *= a[:, None]
        return parameters

    def encode(
        self, parameters: FloatArray, family: IntArray, fewest: IntArray, most: IntArray, clip: bool = False
    ) -> FloatArray:
        """(B, 6) the numbers that :meth:`decode` makes `parameters` (B, 6) of; 0 for those that do not count.

        Args:
            parameters: Å and degrees.
            family, fewest, most: As in :meth:`decode`.
            clip: Take the nearest numbers for parameters outside the range.

        Raises:
            InputError: for parameters outside the range, unless they are clipped.
        """
        whole = completed(parameters, family)
        full = fullness(whole[:, 3:])
        low, high = np.log(self.volume[0] * fewest), np.log(self.volume[1] * most)
        middle, half = sum(self.angles) / 2, (self.angles[1] - self.angles[0]) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            volume = np.log(whole[:, :3].prod(1) * full)
            numbers = np.concatenate(
                [
                    (2 * (volume - low) / (high - low) - 1)[:, None],
                    np.log(whole[:, 1:3] / whole[:, :1]) / np.log(self.aspect),
                    (whole[:, 3:] - middle) / half,
                ],
                1,
            )
        numbers = np.where(FREE[family], numbers, 0.0)
        if clip:
            return np.asarray(np.clip(np.nan_to_num(numbers), -1.0, 1.0))
        outside = ~((np.abs(numbers) <= 1 + 1e-6).all(1) & (full >= FLATTEST - 1e-6))
        if outside.any():
            row = int(outside.argmax())
            raise InputError(
                f"lattice {np.round(parameters[row], 3).tolist()} (Å, degrees) for {int(fewest[row])} to "
                f"{int(most[row])} atoms is outside volume_range {self.volume} Å³ per atom, max_aspect {self.aspect} "
                f"or angle_range {self.angles}; widen them"
            )
        return np.asarray(np.clip(numbers, -1.0, 1.0))


def _pair(name: str, values: Sequence[float]) -> tuple[float, float]:
    given = tuple(values) if isinstance(values, Sequence) else ()
    if len(given) != 2 or not all(isinstance(v, int | float) for v in given) or not given[0] < given[1]:
        raise InputError(f"{name} range is {values!r}; give two numbers, the smaller first")
    return float(given[0]), float(given[1])


def _not_flat(angles: FloatArray) -> FloatArray:
    """Angles (B, 3) whose cosines are scaled down, where needed, until the cell is not too flat."""
    cosine = np.cos(np.deg2rad(angles))

    def square(scale: FloatArray) -> FloatArray:
        scaled = cosine * scale[:, None]
        return np.asarray(1 - (scaled**2).sum(1) + 2 * scaled.prod(1))

    low, high = np.zeros(len(angles)), np.ones(len(angles))
    flat = square(high) < FLATTEST**2
    if not flat.any():
        return angles
    for _ in range(50):  # square() falls from 1 as the scale grows
        middle = (low + high) / 2
        good = square(middle) >= FLATTEST**2
        low, high = np.where(good, middle, low), np.where(good, high, middle)
    return np.where(flat[:, None], np.rad2deg(np.arccos(cosine * low[:, None])), angles)
