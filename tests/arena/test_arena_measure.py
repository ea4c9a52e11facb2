"""What counts as a minimum of its own."""

from __future__ import annotations

import numpy as np
import pytest

from megen_gym.arena.measure import distinct, distinct_minima
from megen_gym.structure import FloatArray, StructureBatch


def clusters(*positions: FloatArray) -> StructureBatch:
    stacked = np.stack(positions)
    return StructureBatch.trusted(stacked, np.ones(stacked.shape[:2], dtype=np.int64), ("X", "Ga"))


@pytest.fixture
def base() -> FloatArray:
    return np.random.default_rng(0).normal(scale=3.0, size=(8, 3))


def moved(base: FloatArray, by: float) -> FloatArray:
    """One atom elsewhere, so that no distance changes by more than `by` Å and one changes by about so much."""
    other = base.copy()
    other[0] += by * (base[0] - base[1]) / np.linalg.norm(base[0] - base[1])
    return other


def test_a_minimum_that_was_relaxed_twice_is_one(base: FloatArray) -> None:
    batch = clusters(base, moved(base, 0.12), moved(base, -0.06))
    assert len(distinct(batch)) > 1
    assert distinct_minima(batch, np.array([-41.374, -41.357, -41.366])).tolist() == [0]


def test_another_energy_is_another_minimum(base: FloatArray) -> None:
    batch = clusters(base, moved(base, 0.12))
    assert distinct_minima(batch, np.array([-41.374, -41.30])).tolist() == [0, 1]


def test_another_shape_is_another_minimum(base: FloatArray) -> None:
    batch = clusters(base, moved(base, 1.5))
    assert distinct_minima(batch, np.array([-41.374, -41.374])).tolist() == [0, 1]


def test_the_first_of_each_stands_for_it(base: FloatArray) -> None:
    far = moved(base, 1.5)
    batch = clusters(far, base, far, moved(base, 0.01))
    assert distinct_minima(batch, np.array([-30.0, -20.0, -30.01, -20.005])).tolist() == [0, 1]


def test_many_small_steps_are_not_one_minimum(base: FloatArray) -> None:
    """Neighbours in energy are 0.03 eV apart, the lowest and the highest 0.27 eV."""
    batch = clusters(*(moved(base, 0.01 * step) for step in range(10)))
    energy = -41.0 + 0.03 * np.arange(10)
    assert distinct_minima(batch, energy).tolist() == [0, 2, 4, 6, 8]
    assert len(distinct_minima(batch[::-1], energy[::-1])) == 5


def test_nothing_is_nothing() -> None:
    assert distinct_minima(clusters(np.zeros((3, 3)))[:0], np.zeros(0)).tolist() == []
