"""Novelty falls with repetition and recognises a rotated copy."""

import itertools
import pickle

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from megen_gym.errors import InputError
from megen_gym.rewards.novelty import NoveltyReward
from megen_gym.structure import StructureBatch

from .conformance import growth

CHAIN = growth()
SMALL = {"n_max": 4, "l_max": 3}


def test_what_was_seen_is_not_new_nor_is_its_rotated_copy():
    reward = NoveltyReward(**SMALL)
    first = reward(CHAIN[-2], CHAIN[-1]).value
    assert first[0] == 1.0
    assert (first[1:] > 0.05).all()
    assert reward(CHAIN[-2], CHAIN[-1]).value == pytest.approx(0.0, abs=1e-4)
    after = CHAIN[-1]
    turned = after.positions @ Rotation.from_rotvec([0.3, 0.2, 1.0]).as_matrix()
    copy = StructureBatch(turned[:, ::-1].copy(), after.species, after.symbols)
    assert reward(CHAIN[-2], copy).value == pytest.approx(0.0, abs=1e-4)


def test_twins_in_one_batch_are_not_both_new():
    rows = [0, 0, 1]
    value = NoveltyReward(**SMALL)(CHAIN[-2][rows], CHAIN[-1][rows]).value
    assert value[0] == 1.0
    assert value[1] == pytest.approx(0.0, abs=1e-6)
    assert value[2] > 0.05


def test_a_full_memory_forgets_the_oldest():
    reward = NoveltyReward(**SMALL, capacity=1)
    one, two = (CHAIN[-2][0], CHAIN[-1][0]), (CHAIN[-2][1], CHAIN[-1][1])
    assert reward(*one).value[0] == 1.0
    assert reward(*two).value[0] > 0.05
    assert reward(*one).value[0] > 0.05
    assert reward(*one).value[0] == pytest.approx(0.0, abs=1e-6)


def test_memory_grows_to_its_capacity():
    rng = np.random.default_rng(0)
    reward = NoveltyReward(n_max=2, l_max=1, capacity=40, tolerance=0.0)
    for _ in range(60):
        reward._rate(("Ga",), rng.normal(size=5))
    assert reward._memory[("Ga",)].shape == (40, 5)
    assert reward._seen[("Ga",)] == 60


def test_only_final_structures_and_only_one_formula():
    reward = NoveltyReward(**SMALL, size=6)
    values = [reward(before, after).value for before, after in itertools.pairwise(CHAIN)]
    assert not np.any(values[:-1])
    assert np.all(values[-1] > 0)
    every = NoveltyReward(**SMALL)
    assert [every(b, a).value[0] for b, a in itertools.pairwise(CHAIN)] == [1.0] * 6


def test_a_copy_remembers_and_reset_forgets():
    reward = NoveltyReward(**SMALL)
    reward(CHAIN[-2], CHAIN[-1])
    copy = pickle.loads(pickle.dumps(reward))
    assert copy(CHAIN[-2], CHAIN[-1]).value == pytest.approx(0.0, abs=1e-6)
    copy.reset()
    assert copy(CHAIN[-2], CHAIN[-1]).value[0] == 1.0


def test_nan_never_reaches_the_descriptor():
    after = CHAIN[-1]
    positions = after.positions.copy()
    positions[1, 2, 0] = np.nan
    outcome = NoveltyReward(**SMALL)(CHAIN[-2], StructureBatch.trusted(positions, after.species, after.symbols))
    assert list(outcome.errors) == [1]
    assert np.isfinite(outcome.value).all()


@pytest.mark.parametrize(
    "arguments", [{"r_cut": 0.5}, {"n_max": 0}, {"sigma": 0}, {"capacity": 0}, {"size": 0}], ids=str
)
def test_bad_input_is_refused(arguments):
    with pytest.raises(InputError):
        NoveltyReward(**arguments)
