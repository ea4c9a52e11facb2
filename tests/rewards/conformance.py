"""What every reward must keep to. A reward's own tests call :func:`check_reward` with a function that makes it."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from megen_gym.rewards import EnergyReward, Outcome, Reward, reward_from_spec
from megen_gym.structure import StructureBatch

Make = Callable[[], Reward]


def growth(symbols: tuple[str, ...] = ("X", "Ga"), steps: int = 6, seed: int = 0) -> list[StructureBatch]:
    """Three clusters that grow from nothing by bonded placements: `steps` + 1 batches of float64."""
    rng = np.random.default_rng(seed)
    positions = np.zeros((3, steps, 3))
    species = np.zeros((3, steps), dtype=np.int64)
    batches = [StructureBatch(positions.copy(), species.copy(), symbols)]
    for step in range(steps):
        for row in range(3):
            present = positions[row, :step]
            while True:
                shift = rng.normal(size=3)
                focus = present[rng.integers(step)] if step else np.zeros(3)
                point = focus + shift / np.linalg.norm(shift) * rng.uniform(2.5, 2.9)
                if not step or np.linalg.norm(present - point, axis=1).min() > 2.4:
                    break
            positions[row, step] = point
            species[row, step] = rng.integers(1, len(symbols))
        batches.append(StructureBatch(positions.copy(), species.copy(), symbols))
    return batches


def check_reward(make: Make, symbols: tuple[str, ...] = ("X", "Ga"), tolerance: float = 1e-6) -> None:
    """All checks. `make` gives a fresh reward each time, so that rewards with a memory start equal.

    Args:
        make: The reward, anew.
        symbols: Elements that it can judge.
        tolerance: Absolute and relative, for what must agree.
    """
    chain = growth(symbols)
    check_shapes(make, chain)
    check_batch_equals_single(make, chain, tolerance)
    check_invariance(make, chain, tolerance)
    check_known(make, chain, tolerance)
    check_determinism_and_copies(make, chain)
    if isinstance(make(), EnergyReward):
        check_telescopes(make, chain, max(tolerance, 1e-9))


def check_worth(spec: dict[str, Any], chain: list[StructureBatch]) -> None:
    """What any reward of whole structures keeps to, and that returns add up to the worth of the last one.

    Args:
        spec: JSON of the reward.
        chain: Batches that grow from nothing.
    """
    make = lambda: reward_from_spec(json.loads(json.dumps(spec)))
    check_shapes(make, chain)
    check_batch_equals_single(make, chain, 1e-9)
    check_known(make, chain, 1e-9)
    check_determinism_and_copies(make, chain)
    reward = make()
    total = sum(reward(before, after).value for before, after in itertools.pairwise(chain))
    _same(total, reward(chain[0], chain[-1]).value, 1e-9)


def check_shapes(make: Make, chain: list[StructureBatch]) -> None:
    """Floats (B,), finite, no errors, inputs untouched; the empty canvas before is no exception, nor an empty batch."""
    reward = make()
    assert np.isfinite(reward.invalid)
    for before, after in itertools.pairwise(chain):
        positions = after.positions.copy()
        outcome = reward(before, after)
        assert isinstance(outcome, Outcome)
        assert outcome.errors == {}
        assert outcome.value.shape == (len(after),)
        assert outcome.value.dtype == np.float64
        assert np.isfinite(outcome.value).all()
        for name, array in {**outcome.terms, **outcome.known}.items():
            assert isinstance(name, str)
            assert array.shape == (len(after),), name
            assert np.isfinite(array).all(), name
        np.testing.assert_array_equal(positions, after.positions)
    assert reward(chain[0][:0], chain[1][:0]).value.shape == (0,)


def check_batch_equals_single(make: Make, chain: list[StructureBatch], tolerance: float) -> None:
    """A batch gives what its rows give one after the other."""
    before, after = chain[-2], chain[-1]
    whole, reward = make()(before, after), make()
    singles = [reward(before[row], after[row]) for row in range(len(after))]
    _same(whole.value, np.concatenate([single.value for single in singles]), tolerance)
    for name in whole.terms:
        _same(whole.terms[name], np.concatenate([single.terms[name] for single in singles]), tolerance)


def check_invariance(make: Make, chain: list[StructureBatch], tolerance: float) -> None:
    """Rotation, translation, the order of the atoms that were there before, and more padding change nothing."""
    before, after = chain[-2], chain[-1]
    expected = make()(before, after).value
    turn = Rotation.from_rotvec([0.7, -1.1, 0.4]).as_matrix().T
    order = np.r_[np.random.default_rng(1).permutation(after.species.shape[1] - 1), after.species.shape[1] - 1]

    def move(batch: StructureBatch) -> StructureBatch:
        moved = (batch.positions @ turn + [3.0, -2.0, 5.0]) * batch.mask[:, :, None]
        return StructureBatch(moved, batch.species, batch.symbols)

    def shuffle(batch: StructureBatch) -> StructureBatch:
        return StructureBatch(batch.positions[:, order], batch.species[:, order], batch.symbols)

    def pad(batch: StructureBatch) -> StructureBatch:
        wider = np.pad(batch.positions, ((0, 0), (0, 2), (0, 0)))
        return StructureBatch(wider, np.pad(batch.species, ((0, 0), (0, 2))), batch.symbols)

    for change in (move, shuffle, pad):
        _same(make()(change(before), change(after)).value, expected, tolerance)


def check_known(make: Make, chain: list[StructureBatch], tolerance: float) -> None:
    """What is handed back as known, wholly or in part, changes no value."""
    plain, informed, partly = make(), make(), make()
    remembered = half = None
    for before, after in itertools.pairwise(chain):
        expected = plain(before, after)
        outcome = informed(before, after, remembered)
        mixed = partly(before, after, half)
        _same(outcome.value, expected.value, tolerance)
        _same(mixed.value, expected.value, tolerance)
        remembered = outcome.known
        half = {name: np.where(np.arange(len(after)) == 1, np.nan, array) for name, array in mixed.known.items()}


def check_determinism_and_copies(make: Make, chain: list[StructureBatch]) -> None:
    """Two of a kind, a pickled and a deep copy give the same to the last bit."""
    expected = make()(chain[-2], chain[-1]).value
    for other in (make(), pickle.loads(pickle.dumps(make())), copy.deepcopy(make())):
        np.testing.assert_array_equal(other(chain[-2], chain[-1]).value, expected)


def check_telescopes(make: Make, chain: list[StructureBatch], tolerance: float) -> None:
    """The return of an episode is minus the energy of its last structure, and nothing has energy 0."""
    reward = make()
    assert isinstance(reward, EnergyReward)
    total = np.zeros(len(chain[0]))
    for before, after in itertools.pairwise(chain):
        total += reward(before, after).value
    np.testing.assert_array_equal(reward.energy(chain[0]), 0.0)
    _same(total, -reward.energy(chain[-1]), tolerance * len(chain))


def _same(value: object, expected: object, tolerance: float) -> None:
    assert value == pytest.approx(expected, rel=tolerance, abs=tolerance)
