"""What every registered environment must keep to, seen from outside."""

from __future__ import annotations

import json
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import megen_gym  # noqa: F401
from megen_gym.agents.baselines import RandomValid


def check_checkers(env_id: str, kwargs: dict[str, Any]) -> None:
    """Gymnasium's and Stable-Baselines3's own checkers say nothing, not even a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(env_id, **kwargs).unwrapped
        check_env(env)
        sb3_check_env(env)


def check_spec(env_id: str, kwargs: dict[str, Any], steps: int = 12) -> None:
    """An environment made from the JSON of another's spec goes through the same random steps, to the bit."""
    first = gym.make(env_id, **kwargs)
    again = EnvSpec.from_json(json.dumps(json.loads(first.spec.to_json())))
    envs = [first, gym.make(again)]
    for env in envs:
        env.action_space.seed(4)
    seen = [env.reset(seed=3)[0] for env in envs]
    for _ in range(steps):
        check_same(*seen)
        made = [env.step(env.action_space.sample()) for env in envs]
        assert made[0][1:4] == made[1][1:4]
        seen = [step[0] for step in made]
        if made[0][2] or made[0][3]:
            seen = [env.reset()[0] for env in envs]


def check_vector(
    env_id: str,
    kwargs: dict[str, Any],
    mode: AutoresetMode,
    size: int = 3,
    steps: int = 40,
    tries: int | None = 8,
    tolerance: float = 0.0,
) -> int:
    """The vector environment gives what Gymnasium's loop over single ones gives: observations, rewards, flags, infos.

    Args:
        env_id: Of the environment.
        kwargs: Its arguments.
        mode: Of the resets.
        size: Environments.
        steps: Of each.
        tries: Of the random valid policy that plays; None plays any action.
        tolerance: Of rewards and infos.

    Returns:
        How many episodes ended.
    """
    fast = gym.make_vec(env_id, num_envs=size, autoreset_mode=mode, **kwargs)
    slow = SyncVectorEnv([lambda: gym.make(env_id, **kwargs).unwrapped] * size, autoreset_mode=mode)
    policy, rng = RandomValid(fast.unwrapped.task, seed=0, tries=tries or 1), np.random.default_rng(0)
    (seen, _), (expected, _) = fast.reset(seed=7), slow.reset(seed=7)
    ends = 0
    for step in range(steps):
        check_same(seen, expected, where=f" at step {step}")
        action = rng.uniform(-1, 1, fast.action_space.shape).astype(np.float32)
        if tries is not None:
            action = policy.predict(seen)[0]
        seen, *mine, told = fast.step(action)
        expected, *theirs, info = slow.step(action)
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)
        done = mine[1] | mine[2]
        ends += int(done.sum())
        check_same(told.get("final_info", {}), info.get("final_info", {}), tolerance)
        if "final_obs" in info:
            np.testing.assert_array_equal(told["_final_obs"], info["_final_obs"])
            for row in np.flatnonzero(done):
                check_same(told["final_obs"][row], info["final_obs"][row])
        else:
            for key in (key for key in info if not key.startswith("_") and f"_{key}" in info):
                rows = info[f"_{key}"]
                np.testing.assert_array_equal(told[f"_{key}"], rows)
                check_same({key: told[key][rows]}, {key: info[key][rows]}, tolerance)
    return ends


def check_same(one: dict[str, Any], other: dict[str, Any], tolerance: float = 0.0, where: str = "") -> None:
    """Two dicts of arrays are equal, numbers within a tolerance."""
    assert one.keys() == other.keys()
    for key, value in other.items():
        if tolerance and np.issubdtype(np.asarray(value).dtype, np.floating):
            np.testing.assert_allclose(one[key], value, rtol=0, atol=tolerance, err_msg=f"{key}{where}")
        else:
            np.testing.assert_array_equal(one[key], value, err_msg=f"{key}{where}")
