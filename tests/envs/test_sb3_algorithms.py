"""Stable-Baselines3 beyond PPO: A2C, and SAC with its memory of moves, with and without the native adapter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer

from megen_gym.envs.sb3 import SB3VecEnv
from megen_gym.envs.vector import make_vec
from megen_gym.rollout import rollout

ID, N = "LJCluster-v0", 4
MEMORY: dict[str, Any] = {"buffer_size": 2000, "learning_starts": 64, "batch_size": 32, "train_freq": 8}


def small() -> dict[str, Any]:
    """A small network; SB3 writes into `policy_kwargs`, so each model gets its own."""
    return {"policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu"}


@pytest.fixture(autouse=True)
def _warnings_fail() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def environment(native: bool, **kwargs: Any) -> Any:
    return SB3VecEnv.make(ID, 4, seed=0, n=N, **kwargs) if native else gym.make(ID, n=N, **kwargs)


def learned(model: BaseAlgorithm, steps: int) -> bool:
    """Train; true if every part of the policy that acts has moved and nothing is infinite."""
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(steps)
    after = list(model.policy.parameters())
    assert all(torch.isfinite(parameter).all() for parameter in after)
    return any((a != b).any() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("native", [True, False], ids=["SB3VecEnv", "gym.make"])
@pytest.mark.parametrize(("kind", "options"), [(A2C, {"n_steps": 8}), (SAC, MEMORY), (TD3, MEMORY)])
def test_a_few_hundred_steps(kind: type[BaseAlgorithm], options: dict[str, Any], native: bool) -> None:
    model = kind("MultiInputPolicy", environment(native), **options, **small())
    assert learned(model, 300)
    assert len(model.ep_info_buffer) > 50
    assert all(1 <= info["l"] <= N and np.isfinite(info["r"]) for info in model.ep_info_buffer)
    played = rollout(model, make_vec(ID, 4, n=N), 6, seed=1)
    assert len(played.structures) == 6
    assert np.isfinite(played.episode_return).all()


@pytest.mark.parametrize("native", [True, False], ids=["SB3VecEnv", "gym.make"])
def test_the_memory_holds_the_ends_of_episodes(native: bool) -> None:
    """The move after a last one is never the first of the next episode, and a step limit is no end of the task."""
    model = SAC("MultiInputPolicy", environment(native, on_refusal="skip", min_distance=2.8), **MEMORY, **small())
    model.learn(400)
    memory = model.replay_buffer
    assert isinstance(memory, DictReplayBuffer)
    assert not memory.full
    used = slice(0, memory.pos)
    ended, cut = memory.dones[used] > 0, memory.timeouts[used] > 0
    assert (cut <= ended).all()
    assert cut.any()
    assert (ended & ~cut).any()
    before, after = ((part["species"][used] > 0).sum(-1) for part in (memory.observations, memory.next_observations))
    assert (after >= before).all()
    assert (after[ended & ~cut] == N).all()
    assert (after[cut] < N).all()
    assert (before[1:][ended[:-1]] == 0).all()
    for name, part in memory.observations.items():
        going = ~ended[:-1]
        np.testing.assert_array_equal(part[used][1:][going], memory.next_observations[name][used][:-1][going])
    space = model.observation_space
    assert isinstance(space, gym.spaces.Dict)
    for name, part in memory.observations.items():
        assert part.dtype == space[name].dtype
    batch = memory.sample(64)
    assert ((batch.dones == 0) | (batch.dones == 1)).all()
    assert all(values.dtype != torch.float64 for values in batch.observations.values())


def test_rewards_of_the_memory_are_scaled_and_those_of_episodes_are_not() -> None:
    scaled, plain = (
        SAC("MultiInputPolicy", environment(True, reward_scale=s), **MEMORY, **small()) for s in (0.5, 1.0)
    )
    for model in (scaled, plain):
        model.learn(64)
    np.testing.assert_allclose(2 * scaled.replay_buffer.rewards, plain.replay_buffer.rewards, rtol=1e-6)
    returns = [[info["r"] for info in model.ep_info_buffer] for model in (scaled, plain)]
    assert returns[0] == returns[1]


def test_maskable_ppo_orders_an_alloy_by_rollouts_of_its_own() -> None:
    contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed, see the extra 'dev'")
    kwargs: dict[str, Any] = {"template": "l12", "supercell": (2, 1, 1), "free": "species", "reward": "contacts"}
    for env in (SB3VecEnv.make("CrystalSlots-v0", 4, seed=0, **kwargs), gym.make("CrystalSlots-v0", **kwargs)):
        model = contrib.MaskablePPO("MultiInputPolicy", env, n_steps=16, batch_size=16, n_epochs=1, **small())
        assert learned(model, 200)
        assert all(info["l"] == 8 for info in model.ep_info_buffer)
        for deterministic in (False, True):
            played = rollout(model, make_vec("CrystalSlots-v0", 3, **kwargs), 5, seed=1, deterministic=deterministic)
            assert played.structures.n_atoms.tolist() == [8] * 5
            assert not played.errors
            assert (played.length == 8).all()
            formulas = {atoms.get_chemical_formula() for atoms in played.atoms()}
            assert len(formulas) == 1


def test_a2c_on_discrete_sites() -> None:
    """Without masks; a refused element costs its move and no more."""
    env = SB3VecEnv.make("CrystalSlots-v0", 4, seed=0, free="species", reward="contacts", on_refusal="skip")
    assert learned(A2C("MultiInputPolicy", env, n_steps=8, **small()), 200)
