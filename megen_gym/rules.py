"""When a placement is possible, and when it is chemically sensible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megen_gym.actions import Array
from megen_gym.errors import InputError
from megen_gym.structure import BoolArray, FloatArray

Window = tuple[float, float]

GALLIUM_WINDOWS: tuple[Window, ...] = ((2.3, 3.1), (2.5, 3.0), (2.5, 5.5))
"""Å; windows of the first, second and third neighbour of a placed gallium atom (MeGen, Mach. Learn.: Sci. Technol. 4,
025032). 99.4 % of the atoms of DFT minima pass them."""


def is_number(value: object) -> bool:
    """Whether `value` is a real number, and no truth value."""
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def distance_pair(value: object) -> tuple[float, float]:
    """The shortest and the longest distance from the focus, Å.

    Raises:
        InputError: for anything but two finite numbers, 0 < shortest < longest.

    >>> distance_pair([2, 3.5])
    (2.0, 3.5)
    """
    pair = _pair(value)
    if pair is None or not 0 < pair[0] < pair[1] < math.inf:
        raise InputError(f"distance_range is {value!r}; give (shortest, longest) in Å with 0 < shortest < longest")
    return pair


def _listed(value: object) -> list[Any]:
    """The entries of a sequence; that which is none, as one entry."""
    return list(value) if isinstance(value, Sequence | np.ndarray) else [value]


def _pair(value: object) -> tuple[float, float] | None:
    """Two numbers; None for anything else."""
    entries = _listed(value)
    if isinstance(value, str) or len(entries) != 2 or not all(is_number(entry) for entry in entries):
        return None
    return float(entries[0]), float(entries[1])


@dataclass(frozen=True)
class PlacementRules:
    """Guards (a move that breaks them is refused) and windows (a move that keeps them is *valid*).

    Attributes:
        min_distance: Å; a new atom closer than this to any other is refused.
        max_distance: Å; a new atom farther than this from all others is refused.
        windows: Å; the k-th window bounds the distance to the k-th nearest atom, as soon as there are k atoms.
    """

    min_distance: float
    max_distance: float
    windows: tuple[Window, ...] = ()

    def __post_init__(self) -> None:
        for name in ("min_distance", "max_distance"):
            value = getattr(self, name)
            if not is_number(value) or math.isnan(value):
                raise InputError(f"{name} is {value!r}; give a distance in Å")
        pairs = [] if isinstance(self.windows, str) else [_pair(window) for window in _listed(self.windows)]
        if isinstance(self.windows, str) or None in pairs:
            raise InputError(
                f"windows is {self.windows!r}; give pairs (low, high) in Å for the 1st, 2nd, ... neighbour, "
                "e.g. ((2.3, 3.1),)"
            )
        object.__setattr__(self, "windows", tuple(pairs))
        if not 0 <= self.min_distance < self.max_distance or not all(low < high for low, high in self.windows):
            raise InputError(
                f"min_distance {self.min_distance}, max_distance {self.max_distance}, windows {self.windows} leave no "
                "room for an atom; give 0 <= min_distance < max_distance and low < high in every window"
            )

    def allowed(self, distances: Array, n_atoms: Array) -> Array:
        """Whether the guards let an atom in.

        Args:
            distances: (..., N) Å to the atoms present, infinite where there is none.
            n_atoms: (...) number of atoms present.
        """
        nearest = distances.min(-1)
        nearest = nearest if not hasattr(nearest, "values") else nearest.values
        return (n_atoms == 0) | ((nearest >= self.min_distance) & (nearest <= self.max_distance))

    def valid(self, distances: Array, n_atoms: Array) -> Array:
        """Whether guards and windows hold; arguments as in :meth:`allowed`.

        Counting replaces sorting: the k-th nearest lies in [low, high] if fewer than k atoms are closer than low and at
        least k atoms are within high.
        """
        good = self.allowed(distances, n_atoms)
        for k, (low, high) in enumerate(self.windows, start=1):
            inside = ((distances < low).sum(-1) < k) & ((distances <= high).sum(-1) >= k)
            good = good & (inside | (n_atoms < k))
        return good


def pair_distances(positions: FloatArray, mask: BoolArray) -> FloatArray:
    """(B, N, N) Å between the atoms of each structure; infinite on the diagonal and where an atom is missing."""
    delta = positions[:, :, None] - positions[:, None]
    distances: FloatArray = np.sqrt((delta**2).sum(-1))
    distances[~(mask[:, :, None] & mask[:, None])] = np.inf
    index = np.arange(positions.shape[1])
    distances[:, index, index] = np.inf
    return distances
