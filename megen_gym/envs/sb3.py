"""The vector environment as Stable-Baselines3 wants it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from megen_gym.envs.vector import StructureVectorEnv, make_vec
from megen_gym.errors import InputError


class SB3VecEnv(VecEnv):
    """A native SB3 ``VecEnv``: no loop over environments but for the ends of episodes.

    Every ended episode's info holds ``terminal_observation``, ``TimeLimit.truncated``, the info of its last step, and
    ``episode`` (return ``r``, length ``l``, seconds ``t``) as SB3's monitor writes it.

    Args:
        env: A vector environment whose autoreset mode is SAME_STEP.
        reward_scale: Factor on the rewards that the learner sees; ``episode`` and ``last_infos`` stay unscaled.

    Attributes:
        last_infos: The vector environment's infos of the last step (arrays, one entry per environment).

    Example:
        ``SB3VecEnv.make("GaCluster-v0", num_envs=64, n=18)``
    """

    def __init__(self, env: StructureVectorEnv, reward_scale: float = 1.0) -> None:
        if env.autoreset_mode is not AutoresetMode.SAME_STEP:
            raise InputError(
                f"the vector environment resets in mode {env.autoreset_mode.value}; Stable-Baselines3 needs SAME_STEP: "
                "give autoreset_mode='SameStep', or use SB3VecEnv.make"
            )
        self.env = env
        self.render_mode = env.render_mode
        self.reward_scale = reward_scale
        self.last_infos: dict[str, Any] = {}
        self._started = time.time()
        self.returns = np.zeros(env.num_envs)
        self.lengths = np.zeros(env.num_envs, dtype=np.int64)
        self._actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    @classmethod
    def make(
        cls, env_id: str, num_envs: int, seed: int | None = None, reward_scale: float = 1.0, **kwargs: Any
    ) -> SB3VecEnv:
        """Make and wrap a registered environment; `kwargs` go to it."""
        adapted = cls(make_vec(env_id, num_envs, **kwargs), reward_scale)
        adapted.seed(seed)
        return adapted

    def reset(self) -> VecEnvObs:
        """Start everywhere, with the seeds set before."""
        given = [seed is not None for seed in self._seeds]
        observation, _ = self.env.reset(seed=list(self._seeds) if any(given) else None)
        self._reset_seeds()
        self.returns[:], self.lengths[:] = 0, 0
        return observation

    def step_async(self, actions: np.ndarray[Any, Any]) -> None:
        """Keep the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Make the moves."""
        observation, reward, terminated, truncated, infos = self.env.step(self._actions)
        self.last_infos = infos
        done = terminated | truncated
        self.returns += reward
        self.lengths += 1
        listed: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if done.any():
            final, last = infos["final_obs"], infos["final_info"]
            for row in np.flatnonzero(done):
                here = [key for key in last if f"_{key}" in last and last[f"_{key}"][row]]
                listed[row] = {key: last[key][row] for key in here}
                listed[row] |= {
                    "terminal_observation": final[row],
                    "TimeLimit.truncated": bool(truncated[row] and not terminated[row]),
                    "episode": {
                        "r": round(float(self.returns[row]), 6),
                        "l": int(self.lengths[row]),
                        "t": round(time.time() - self._started, 6),
                    },
                }
            self.returns[done], self.lengths[done] = 0, 0
        return observation, (self.reward_scale * reward).astype(np.float32), done, listed

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the environment, once per index (all share one environment)."""
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the environment."""
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call a method of the environment once and give its answer to every index; of action_masks, its row."""
        answer = getattr(self.env, method_name)(*args, **kwargs)
        rows = self._get_indices(indices)
        return [answer[row] if method_name == "action_masks" else answer for row in rows]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Never: the adapter monitors episodes itself."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[Any]:
        """One image per environment."""
        return list(self.env.render() or [])
