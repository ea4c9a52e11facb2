"""The covariant agent inside Stable-Baselines3."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from megen_gym.actions import FocalCodec
from megen_gym.agents.covariant import CovariantPolicy, CovariantSettings
from megen_gym.errors import InputError

SMALL: dict[str, Any] = {"channels": 4, "width": 16, "lmax": 2, "cells": 128, "windows": ((2.3, 3.1), (2.5, 3.0))}


class Heap(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """Five atoms of one element, paid for being close together."""

    canvas = 5

    def __init__(self) -> None:
        self.codec = FocalCodec(2.3, 3.1)
        size = self.canvas
        self.observation_space = spaces.Dict(
            {
                "positions": spaces.Box(-20, 20, (size, 3), np.float32),
                "species": spaces.Box(0, 1, (size,), np.int64),
                "bag": spaces.Box(0, size, (2,), np.int64),
                "focus_mask": spaces.MultiBinary(size),
                "element_mask": spaces.MultiBinary(2),
            }
        )
        self.action_space = spaces.Box(-1, 1, (6,), np.float32)

    def observe(self) -> dict[str, np.ndarray]:
        species = (np.arange(self.canvas) < len(self.atoms)).astype(np.int64)
        positions = np.zeros((self.canvas, 3), np.float32)
        positions[: len(self.atoms)] = np.array(self.atoms).reshape(-1, 3)
        return {
            "positions": positions,
            "species": species,
            "bag": np.array([0, self.canvas - len(self.atoms)]),
            "focus_mask": species.astype(np.int8),
            "element_mask": np.array([0, 1], np.int8),
        }

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.atoms: list[np.ndarray] = []
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        masks = self.observe()
        placed = self.codec.decode(action[None], masks["focus_mask"][None], masks["element_mask"][None])
        origin = self.atoms[placed.focus[0]] if self.atoms else np.zeros(3)
        self.atoms.append(origin + len(self.atoms[:1]) * placed.distance[0] * placed.direction[0])
        reward = -float(np.linalg.norm(np.mean(self.atoms, 0) - self.atoms[-1]))
        return self.observe(), reward, len(self.atoms) == self.canvas, False, {}


def make_ppo(**kwargs: Any) -> PPO:
    return PPO(
        CovariantPolicy, DummyVecEnv([Heap] * 4), n_steps=10, batch_size=20, seed=1, policy_kwargs=SMALL, **kwargs
    )


def test_recomputed_log_probs_equal_the_stored_ones() -> None:
    model = make_ppo(learning_rate=0.0, n_epochs=1)
    model.learn(40)
    for batch in model.rollout_buffer.get(20):
        _, log_prob, entropy = model.policy.evaluate_actions(batch.observations, batch.actions)
        torch.testing.assert_close(log_prob, batch.old_log_prob, rtol=4e-6, atol=4e-6)
        assert entropy is not None
        assert torch.isfinite(entropy).all()
        values = model.policy.predict_values(batch.observations)
        torch.testing.assert_close(values[:, 0], batch.old_values, rtol=1e-4, atol=1e-5)


def test_learning_moves_every_parameter() -> None:
    model = make_ppo(ent_coef=0.01)
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    model.learn(80)
    still = [name for name, p in model.policy.named_parameters() if torch.equal(p, before[name])]
    # With one element there is nothing to choose.
    assert all("element_head" in name for name in still)


def test_prediction_is_reproducible_and_saved_with_its_settings(tmp_path: Path) -> None:
    model = make_ppo()
    observation = model.get_env().reset()  # type: ignore[union-attr]
    for _ in range(3):
        action, _ = model.predict(observation, deterministic=True)
        again, _ = model.predict(observation, deterministic=True)
        np.testing.assert_array_equal(action, again)
        observation = model.get_env().step(action)[0]  # type: ignore[union-attr]
    assert model.policy.settings == CovariantSettings(**SMALL)
    rebuilt = json.loads(json.dumps(asdict(model.policy.settings)))
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model")
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )
    env = Heap()
    policy = CovariantPolicy(env.observation_space, env.action_space, lambda _: 1e-3, **rebuilt)
    policy.load_state_dict(model.policy.state_dict())
    np.testing.assert_array_equal(
        policy.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )


def test_single_observations_and_scores() -> None:
    model = make_ppo()
    env = Heap()
    observation, _ = env.reset()
    for _ in range(env.canvas):
        action, _ = model.predict(observation)
        assert env.action_space.contains(action)
        tensors, _ = model.policy.obs_to_tensor(observation)
        assert torch.isfinite(model.policy.log_prob(tensors, torch.as_tensor(action)[None])).all()
        observation = env.step(action)[0]


def test_other_spaces_are_refused() -> None:
    env = Heap()
    with pytest.raises(InputError, match="focus_mask"):
        CovariantPolicy(spaces.Box(-1, 1, (3,)), env.action_space, lambda _: 1e-3)
    with pytest.raises(InputError, match="focal codec"):
        CovariantPolicy(env.observation_space, spaces.Box(-1, 1, (4,)), lambda _: 1e-3)
    policy = CovariantPolicy(env.observation_space, env.action_space, lambda _: 1e-3, **SMALL)
    with pytest.raises(InputError, match="log_prob"):
        policy.get_distribution({})
