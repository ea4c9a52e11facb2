"""Gymnasium's and Stable-Baselines3's own checkers, with every warning an error."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from environment_checks import check_checkers, check_spec

import megen_gym
import megen_gym.errors

CASES = {
    "gallium": ("GaCluster-v0", {"n": 5}),
    "lennard_jones": ("LJCluster-v0", {"n": 5}),
    "stop": ("GaCluster-v0", {"n": 5, "stop": True}),
    "skip": ("GaCluster-v0", {"n": 5, "on_refusal": "skip"}),
    "seeds": ("GaCluster-v0", {"n": None, "start": "seeds", "grow": 1, "reward": "megen"}),
    "random bags": ("Cluster-v0", {"formula": "Au2Cu", "size_range": (2, 6), "reward": "emt"}),
    "molecule": ("Cluster-v0", {"formula": "CH4", "reward": "distance", "distance_range": (0.9, 1.8)}),
}


@pytest.mark.parametrize("name", CASES)
def test_both_checkers_are_silent(name: str) -> None:
    check_checkers(*CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_spec_survives_json_and_seeds_repeat(name: str) -> None:
    check_spec(*CASES[name])


def test_pickle_keeps_the_episode() -> None:
    env = gym.make("GaCluster-v0", n=6).unwrapped
    env.reset(seed=1)
    env.action_space.seed(1)
    env.step(env.action_space.sample())
    copy = pickle.loads(pickle.dumps(env))
    action = env.action_space.sample()
    for a, b in zip(env.step(action)[:4], copy.step(action)[:4], strict=True):
        if isinstance(a, dict):
            for key in a:
                np.testing.assert_array_equal(a[key], b[key])
        else:
            assert a == b


def test_id_with_module_prefix() -> None:
    assert gym.make("megen_gym:GaCluster-v0", n=4).unwrapped.task.canvas_size == 4
    assert megen_gym.__version__


def test_render_modes() -> None:
    text = gym.make("GaCluster-v0", n=3, render_mode="ansi")
    text.reset(seed=0)
    assert "empty canvas" in text.render()
    image = gym.make("GaCluster-v0", n=3, render_mode="rgb_array")
    image.reset(seed=0)
    blank = image.render()
    image.step(np.zeros(6, dtype=np.float32))
    frame = image.render()
    assert frame.shape == blank.shape
    assert frame.dtype == np.uint8
    assert frame.shape[-1] == 3
    assert (frame != blank).any()
    with pytest.raises(megen_gym.errors.InputError, match="ansi, rgb_array, human"):
        gym.make("GaCluster-v0", n=3, render_mode="hologram")
