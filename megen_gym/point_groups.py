"""Point groups as matrices, by their Schoenflies names."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from megen_gym.errors import InputError
from megen_gym.structure import FloatArray

_GOLDEN = (1 + 5**0.5) / 2
_X, _Z, _DIAGONAL = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)
_INVERSION = -np.eye(3)
_ACROSS = np.diag([1.0, 1.0, -1.0])
"""Reflection in the plane across the main axis."""
_ALONG = np.diag([1.0, -1.0, 1.0])
"""Reflection in a plane that holds the main axis."""


def turn(axis: tuple[float, float, float], order: float) -> FloatArray:
    """(3, 3) rotation by 360/`order` degrees about an axis (Rodrigues' formula)."""
    unit = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.cross(np.eye(3), unit)
    angle = 2 * np.pi / order
    return np.asarray(np.eye(3) - np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


_AXIAL: dict[str, Callable[[int], list[FloatArray]]] = {
    "C": lambda n: [turn(_Z, n)],
    "Cv": lambda n: [turn(_Z, n), _ALONG],
    "Ch": lambda n: [turn(_Z, n), _ACROSS],
    "S": lambda n: [turn(_Z, n) @ _ACROSS],
    "D": lambda n: [turn(_Z, n), turn(_X, 2)],
    "Dh": lambda n: [turn(_Z, n), turn(_X, 2), _ACROSS],
    "Dd": lambda n: [turn(_Z, n), turn(_X, 2), turn(_Z, 2 * n) @ _ACROSS],
}
_CUBIC = [turn(_DIAGONAL, 3), turn(_Z, 2)]
_FOUR = [turn(_DIAGONAL, 3), turn(_Z, 4)]
_FIVE = [turn(_DIAGONAL, 3), turn((0.0, _GOLDEN, 1.0), 5)]
_NAMED: dict[str, list[FloatArray]] = {
    "Cs": [_ACROSS],
    "Ci": [_INVERSION],
    "T": _CUBIC,
    "Td": [*_CUBIC, turn(_Z, 4) @ _ACROSS],
    "Th": [*_CUBIC, _INVERSION],
    "O": _FOUR,
    "Oh": [*_FOUR, _INVERSION],
    "I": _FIVE,
    "Ih": [*_FIVE, _INVERSION],
}


@lru_cache(maxsize=64)
def point_group(name: str) -> FloatArray:
    """The operations of a point group, the identity first.

    Args:
        name: In Schoenflies' notation: C3, C3v, C3h, S4, D3, D3h, D3d (orders up to 12, of S even ones), Cs, Ci, T, Td,
            Th, O, Oh, I, Ih. The main axis is z; the twofold axes of cubic and icosahedral groups are x, y and z.

    Returns:
        (G, 3, 3) orthogonal matrices, read-only.

    Raises:
        InputError: for another name.

    >>> len(point_group("Ih")), len(point_group("D3d"))
    (120, 12)
    """
    found = re.fullmatch(r"([CSD])([1-9]\d?)([vhd]?)", name)
    if name in _NAMED:
        generators = _NAMED[name]
    elif (
        found and found[1] + found[3] in _AXIAL and int(found[2]) <= 12 and (found[1] != "S" or int(found[2]) % 2 == 0)
    ):
        generators = _AXIAL[found[1] + found[3]](int(found[2]))
    else:
        raise InputError(
            f"no point group {name!r}; give one such as C3, C3v, C3h, S4 (S of even orders), D3, D3h, D3d, Td, Oh or Ih"
        )
    operations = _closed(np.array(generators))
    operations.setflags(write=False)
    return operations


def _closed(generators: FloatArray) -> FloatArray:
    """All products of some matrices, the identity first."""
    found = newest = np.eye(3)[None]
    while len(newest):
        products = np.einsum("aij,bjk->abik", newest, generators).reshape(-1, 3, 3)
        known, fresh = {_key(one) for one in found}, {_key(one): one for one in products}
        newest = np.array([one for key, one in fresh.items() if key not in known]).reshape(-1, 3, 3)
        found = np.concatenate([found, newest])
    return found


def _key(matrix: FloatArray) -> tuple[float, ...]:
    return tuple((np.round(matrix, 6) + 0.0).ravel())
