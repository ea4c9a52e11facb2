"""Guards and windows, counted instead of sorted."""

import numpy as np
import pytest
import torch

from megen_gym.errors import InputError
from megen_gym.rules import GALLIUM_WINDOWS, PlacementRules, pair_distances

RULES = PlacementRules(2.0, 3.2, GALLIUM_WINDOWS)


def by_sorting(distances: np.ndarray, count: int) -> bool:
    near = np.sort(distances)
    if count and not 2.0 <= near[0] <= 3.2:
        return False
    return all(low <= near[k] <= high for k, (low, high) in enumerate(GALLIUM_WINDOWS) if k < count)


def test_counting_equals_sorting() -> None:
    rng = np.random.default_rng(0)
    count = rng.integers(0, 7, 3000)
    distances = rng.uniform(1.9, 3.4, (3000, 7))
    distances[np.arange(7) >= count[:, None]] = np.inf
    expected = [by_sorting(row, n) for row, n in zip(distances, count, strict=True)]
    assert 0.02 < np.mean(expected) < 0.98
    np.testing.assert_array_equal(RULES.valid(distances, count), expected)
    theirs = RULES.valid(torch.from_numpy(distances), torch.from_numpy(count))
    np.testing.assert_array_equal(theirs.numpy(), expected)


def test_pair_distances() -> None:
    positions = np.array([[[0, 0, 0], [3, 4, 0], [9, 9, 9]]], dtype=float)
    distances = pair_distances(positions, np.array([[True, True, False]]))[0]
    assert distances[0, 1] == distances[1, 0] == 5
    assert np.isinf(distances[[0, 1, 2, 0], [0, 1, 2, 2]]).all()


def test_bad_rules() -> None:
    with pytest.raises(InputError, match="leave no room"):
        PlacementRules(3.0, 2.0)
    with pytest.raises(InputError, match="leave no room"):
        PlacementRules(2.0, 3.0, ((2.5, 2.5),))
