"""The vector environment is the single one, many times."""

import gymnasium as gym
import numpy as np
import pytest
from environment_checks import check_vector
from gymnasium.vector import AutoresetMode

import megen_gym  # noqa: F401
from megen_gym.agents.baselines import RandomValid
from megen_gym.envs.sb3 import SB3VecEnv
from megen_gym.errors import InputError

KWARGS = {
    "gallium": ("GaCluster-v0", {"n": 6}),
    "bags": ("Cluster-v0", {"formula": "Au3,Cu2Au", "size_range": (2, 5), "reward": "distance"}),
    "seeds": ("GaCluster-v0", {"n": 12, "start": "seeds", "reward": "megen"}),
}


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("name", KWARGS)
def test_vector_equals_gymnasiums_loop_over_singles(name: str, mode: AutoresetMode) -> None:
    env_id, kwargs = KWARGS[name]
    assert check_vector(env_id, kwargs, mode, size=4, steps=50, tries=32) > 4


def test_reset_mask_restarts_only_where_true() -> None:
    env = gym.make_vec("GaCluster-v0", num_envs=3, n=4, autoreset_mode=AutoresetMode.DISABLED).unwrapped
    env.reset(seed=0)
    env.step(np.zeros((3, 6), dtype=np.float32))
    env.reset(options={"reset_mask": np.array([True, False, False])})
    assert env.engine.structures.n_atoms.tolist() == [0, 1, 1]


def test_an_episode_that_is_over_costs_no_energy() -> None:
    env = gym.make_vec("Cluster-v0", num_envs=2, formula="Au", reward="emt").unwrapped
    env.reset(seed=0)
    env.step(np.zeros((2, 6), dtype=np.float32))
    before = env.engine.reward.evaluations
    env.step(np.zeros((2, 6), dtype=np.float32))
    assert env.engine.reward.evaluations == before


def test_return_telescopes_to_the_binding_energy() -> None:
    env = gym.make_vec("GaCluster-v0", num_envs=8, n=7, autoreset_mode=AutoresetMode.SAME_STEP).unwrapped
    policy, total = RandomValid(env.task, seed=1), np.zeros(8)
    observation, _ = env.reset(seed=5)
    for _ in range(7):
        observation, reward, *_, infos = env.step(policy.predict(observation)[0])
        total += reward
    np.testing.assert_allclose(total, -infos["final_info"]["energy"], rtol=1e-6)


def test_sb3_adapter_reports_episodes() -> None:
    env = SB3VecEnv.make("GaCluster-v0", 4, seed=0, n=3, reward_scale=0.5)
    policy = RandomValid(env.env.task, seed=2)
    observation, total = env.reset(), np.zeros(4)
    for _ in range(3):
        observation, reward, done, infos = env.step(policy.predict(observation)[0])
        total += reward
    assert done.all()
    for row, info in enumerate(infos):
        assert info["episode"]["l"] == 3
        assert info["episode"]["r"] == pytest.approx(2 * total[row], rel=1e-5)
        assert (info["terminal_observation"]["species"] > 0).sum() == 3
        assert info["TimeLimit.truncated"] is False
    assert (observation["species"] == 0).all()


def test_sb3_adapter_wants_same_step() -> None:
    vec = gym.make_vec("GaCluster-v0", num_envs=2, n=3).unwrapped
    with pytest.raises(InputError, match="SAME_STEP"):
        SB3VecEnv(vec)


def test_seeds_as_a_list() -> None:
    env = gym.make_vec("GaCluster-v0", num_envs=3, n=12, start="seeds").unwrapped
    a, _ = env.reset(seed=[4, 4, 5])
    np.testing.assert_array_equal(a["positions"][0], a["positions"][1])
    with pytest.raises(InputError, match="2 seeds were given for 3"):
        env.reset(seed=[1, 2])
