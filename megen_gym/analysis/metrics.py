"""Distances between two sets of structures, each with what the bootstrap needs.

A metric depends on the structures through means of per-structure numbers. Its value on a resample is then a product of
weights (reps, B) with these numbers, for all resamples at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from megen_gym.structure import FloatArray, IntArray

GRID = 2048
"""Points at which distribution functions are kept for the bootstrap."""

Halves = tuple[IntArray, IntArray]
"""Rows of the reference that are compared with each other."""


def wasserstein(first: FloatArray, second: FloatArray) -> float:
    """W1 of two samples of any length, in their unit: the area between their distribution functions.

    >>> wasserstein(np.array([0.0, 1.0]), np.array([0.5, 1.5]))
    0.5
    """
    first, second = np.sort(first, axis=None), np.sort(second, axis=None)
    merged = np.concatenate([first, second])
    merged.sort(kind="stable")
    gaps = np.diff(merged)
    below = np.searchsorted(first, merged[:-1], "right") / len(first)
    above = np.searchsorted(second, merged[:-1], "right") / len(second)
    return float(np.abs(below - above) @ gaps)


class Metric(Protocol):
    """A number that compares generated structures with a reference."""

    @property
    def name(self) -> str:
        """What it is called in the table."""

    @property
    def unit(self) -> str:
        """Its unit, "" if it has none, "%" for shares (kept as 0-1)."""

    @property
    def generated(self) -> NDArray[Any]:
        """What is known of each generated structure, (B, ...)."""

    @property
    def reference(self) -> NDArray[Any]:
        """What is known of each reference structure, (R, ...)."""

    def value(self) -> float:
        """The number for the generated structures."""

    def replicates(self, weights: FloatArray) -> tuple[float, FloatArray]:
        """The number as the bootstrap computes it, and (reps,) the same on resamples, weights (reps, B)."""

    def floor(self, halves: Halves) -> float:
        """What the data themselves reach: the number for one half of the reference against the other."""


@dataclass(frozen=True, eq=False)
class Mean:
    """A mean over structures, such as the share of valid ones; (B,) and, for the reference, (R,)."""

    name: str
    unit: str
    generated: NDArray[Any]
    reference: NDArray[Any]

    def value(self) -> float:
        return float(np.mean(self.generated))

    def replicates(self, weights: FloatArray) -> tuple[float, FloatArray]:
        return self.value(), weights @ np.asarray(self.generated, dtype=np.float64)

    def floor(self, halves: Halves) -> float:
        return float(np.mean(self.reference))


@dataclass(frozen=True, eq=False)
class Median:
    """A median over the structures for which there is a number; (B,) and (R,), NaN where there is none."""

    name: str
    unit: str
    generated: FloatArray
    reference: FloatArray

    def value(self) -> float:
        return _median(self.generated)

    def replicates(self, weights: FloatArray) -> tuple[float, FloatArray]:
        known = np.isfinite(self.generated)
        if not known.any():
            return np.nan, np.full(len(weights), np.nan)
        order = np.argsort(self.generated[known])
        below = np.cumsum(weights[:, known][:, order], axis=1)
        half = below[:, -1:] / 2
        # Of an even number, the mean of the two in the middle.
        lower, upper = np.argmax(below >= half - 1e-12, axis=1), np.argmax(below > half + 1e-12, axis=1)
        values = self.generated[known][order]
        return self.value(), np.where(half[:, 0] > 0, (values[lower] + values[upper]) / 2, np.nan)

    def floor(self, halves: Halves) -> float:
        return _median(self.reference)


def _median(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


@dataclass(frozen=True, eq=False)
class Wasserstein:
    """W1 of the values of all atoms, pooled; (B, n) and (R, n) in `unit`."""

    name: str
    unit: str
    generated: FloatArray
    reference: FloatArray

    def value(self) -> float:
        return wasserstein(self.generated, self.reference)

    def replicates(self, weights: FloatArray) -> tuple[float, FloatArray]:
        merged = np.sort(np.concatenate([self.generated.ravel(), self.reference.ravel()]))
        grid = merged[np.unique(np.linspace(0, len(merged) - 1, GRID).astype(np.int64))]
        own, other = _distribution(self.generated, grid), _distribution(self.reference, grid).mean(axis=0)
        gaps = np.diff(grid)
        areas = [np.abs(means - other)[:, :-1] @ gaps for means in (own.mean(axis=0, keepdims=True), weights @ own)]
        return float(areas[0][0]), areas[1]

    def floor(self, halves: Halves) -> float:
        return wasserstein(self.reference[halves[0]], self.reference[halves[1]])


def _distribution(values: FloatArray, grid: FloatArray) -> FloatArray:
    """(B, len(grid)) share of the values (B, n) of each structure up to each point of the grid."""
    count, points = len(values), len(grid)
    at = np.searchsorted(grid, values) + (points + 1) * np.arange(count)[:, None]
    counts = np.bincount(at.ravel(), minlength=count * (points + 1)).reshape(count, points + 1)
    return np.asarray(np.cumsum(counts[:, :-1], axis=1) / values.shape[1])


def euclidean(means: FloatArray, other: FloatArray) -> FloatArray:
    """(K,) Euclidean distances of rows (K, F) from one vector (F,)."""
    distances: FloatArray = np.linalg.norm(means - other, axis=1)
    return distances


def cosine(means: FloatArray, other: FloatArray) -> FloatArray:
    """(K,) 1 - cosine of the angle between rows (K, F) and one vector (F,)."""
    lengths = np.linalg.norm(means, axis=1) * np.linalg.norm(other)
    return np.asarray(np.maximum(1 - means @ other / np.maximum(lengths, 1e-300), 0))


@dataclass(frozen=True, eq=False)
class OfMeans:
    """A distance between the mean vectors of the two sets; (B, F) and (R, F)."""

    name: str
    unit: str
    generated: FloatArray
    reference: FloatArray
    distance: Callable[[FloatArray, FloatArray], FloatArray] = euclidean

    def value(self) -> float:
        return float(self.distance(self.generated.mean(axis=0, keepdims=True), self.reference.mean(axis=0))[0])

    def replicates(self, weights: FloatArray) -> tuple[float, FloatArray]:
        return self.value(), self.distance(weights @ self.generated, self.reference.mean(axis=0))

    def floor(self, halves: Halves) -> float:
        first, second = (self.reference[rows].mean(axis=0) for rows in halves)
        return float(self.distance(first[None], second)[0])


@dataclass(frozen=True, eq=False)
class Diversity:
    """Mean distance between two generated structures over that of two reference structures; (B, F) and (R, F).

    1 says as diverse as the data; near 0 the generator has collapsed; above 1 it strays, or makes noise.
    """

    name: str
    unit: str
    generated: FloatArray
    reference: FloatArray

    def value(self) -> float:
        return self.replicates(np.full((1, len(self.generated)), 1 / len(self.generated)))[0]

    def replicates(self, weights: FloatArray) -> tuple[float, FloatArray]:
        scale = _mean_pair(cdist(self.reference, self.reference))
        distances = cdist(self.generated, self.generated)
        # A structure drawn twice is no pair: its distance of zero says nothing about the generator.
        pairs = 1 - (weights**2).sum(axis=1)
        spread = ((weights @ distances) * weights).sum(axis=1)
        return _mean_pair(distances) / scale, np.divide(spread, pairs * scale, out=spread * np.nan, where=pairs > 0)

    def floor(self, halves: Halves) -> float:
        first, second = (_mean_pair(cdist(self.reference[rows], self.reference[rows])) for rows in halves)
        return first / second


def _mean_pair(distances: FloatArray) -> float:
    count = len(distances)
    return float(distances.sum() / (count * (count - 1))) if count > 1 else float("nan")


@dataclass(frozen=True, eq=False)
class Novelty:
    """Mean distance of a generated structure from the nearest reference structure; (B, F) and (R, F).

    Near 0 with a floor above it, the generator copies the data.
    """

    name: str
    unit: str
    generated: FloatArray
    reference: FloatArray

    def value(self) -> float:
        return float(self._nearest().mean())

    def replicates(self, weights: FloatArray) -> tuple[float, FloatArray]:
        nearest = self._nearest()
        return float(nearest.mean()), weights @ nearest

    def floor(self, halves: Halves) -> float:
        first, second = halves
        return float(cdist(self.reference[first], self.reference[second]).min(axis=1).mean())

    def _nearest(self) -> FloatArray:
        return np.asarray(cdist(self.generated, self.reference).min(axis=1))
