"""Playing episodes, and the baselines that are played everywhere."""

import numpy as np
import pytest

from megen_gym.agents.baselines import Greedy, RandomValid
from megen_gym.envs.vector import make_vec
from megen_gym.errors import InputError
from megen_gym.rollout import rollout


def test_as_many_episodes_as_asked_and_all_counted_equally() -> None:
    env = make_vec("GaCluster-v0", 4, n=5, reward="distance")
    played = rollout(RandomValid(env.task), env, 10, seed=0)
    assert len(played.structures) == 10
    assert played.length.tolist() == [5] * 10
    assert played.placements == 50
    assert played.n_start.tolist() == [0] * 10


def test_random_valid_is_valid_and_seeded() -> None:
    env = make_vec("GaCluster-v0", 16, n=12)
    first = rollout(RandomValid(env.task, seed=1), env, 16, seed=2)
    again = rollout(RandomValid(env.task, seed=1), env, 16, seed=2)
    assert first.valid.mean() > 0.9
    np.testing.assert_array_equal(first.structures.positions, again.structures.positions)
    np.testing.assert_allclose(first.episode_return, -first.energy, rtol=1e-5, err_msg="the return telescopes")


def test_greedy_beats_random() -> None:
    env = make_vec("GaCluster-v0", 16, n=8)
    random = rollout(RandomValid(env.task, seed=3), env, 16, seed=4)
    greedy = rollout(Greedy(env.task, env.engine.reward, k=12, seed=3), env, 16, seed=4)
    assert greedy.episode_return.mean() > random.episode_return.mean() + 0.3


def test_baselines_answer_single_observations() -> None:
    import gymnasium as gym

    env = gym.make("GaCluster-v0", n=4)
    policy = RandomValid(env.unwrapped.task)
    observation, _ = env.reset(seed=0)
    done = False
    while not done:
        action, _ = policy.predict(observation)
        assert action in env.action_space
        observation, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
    assert info["all_valid"]
    assert len(env.unwrapped.structure) == 4


def test_infos_of_the_structures() -> None:
    env = make_vec("GaCluster-v0", 2, n=3)
    atoms = rollout(RandomValid(env.task), env, 3, seed=0).atoms(policy="random")
    assert all(set(a.info) == {"energy", "reward", "valid", "n_start", "policy"} for a in atoms)


def test_wrong_mode_or_count() -> None:
    env = make_vec("GaCluster-v0", 2, n=3)
    with pytest.raises(InputError, match="at least 1"):
        rollout(RandomValid(env.task), env, 0)
