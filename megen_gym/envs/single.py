"""The Gymnasium environment around any task and reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from megen_gym.envs.engine import Engine, Step
from megen_gym.errors import InputError
from megen_gym.render import ansi, picture, show
from megen_gym.rewards.base import Reward
from megen_gym.structure import BoolArray
from megen_gym.tasks.base import Observation, Task

RENDER_MODES = ["ansi", "rgb_array", "human"]


def step_info(step: Step, row: int) -> dict[str, Any]:
    """The info dictionary of one environment."""
    placed = bool(step.move.placed[row])
    info: dict[str, Any] = {
        name: float(part[row]) for name, part in step.terms.items() if placed or not np.isnan(part[row])
    }
    info |= {
        "placed": placed,
        "valid": bool(step.move.valid[row]),
        "refused": bool(step.move.refused[row]),
        "stopped": bool(step.move.stopped[row]),
        "all_valid": bool(step.clean[row]),
        "n_start": int(step.n_start[row]),
    }
    if row in step.errors:
        info["error"] = step.errors[row]
    return info


class StructureEnv(gym.Env[Observation, NDArray[np.float32]]):
    """One episode at a time of any :class:`~megen_gym.tasks.base.Task` under any reward.

    Args:
        task: The physics.
        reward: The judge.
        min_reward: Floor of a step's reward and the reward of a refused move; the reward's own choice by default.
        render_mode: None, "ansi", "rgb_array" or "human".
    """

    metadata = {"render_modes": RENDER_MODES, "render_fps": 4}  # noqa: RUF012

    def __init__(
        self, task: Task[Any], reward: Reward, min_reward: float | None = None, render_mode: str | None = None
    ) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise InputError(f"render_mode is {render_mode!r}; give one of {', '.join(RENDER_MODES)} or None")
        self.engine = Engine(task, reward, 1, min_reward)
        self.task, self.render_mode = task, render_mode
        self.observation_space: gym.spaces.Space[Any] = task.observation_space
        self.action_space: gym.spaces.Space[Any] = task.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; with a seed, the first of a reproducible sequence."""
        super().reset(seed=seed)
        self.engine.restart(np.arange(1), [self.np_random], first=seed is not None)
        if self.render_mode == "human":
            self.render()
        return self._observation(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Make one move."""
        step = self.engine.step(np.asarray(action)[None])
        if self.render_mode == "human":
            self.render()
        flags = bool(step.terminated[0]), bool(step.truncated[0])
        return self._observation(), float(step.reward[0]), *flags, step_info(step, 0)

    @property
    def structure(self) -> Atoms:
        """The canvas as ``ase.Atoms``."""
        return self.engine.structures.to_atoms()[0]

    def action_masks(self) -> BoolArray:
        """(S,) which discrete actions are allowed now, as sb3-contrib's MaskablePPO asks for it."""
        return np.asarray(self.engine.action_masks()[0])

    def render(self) -> Any:
        """Text, an (H, W, 3) image, or a window, as `render_mode` says."""
        if self.render_mode == "ansi":
            return ansi(self.structure)
        if self.render_mode == "rgb_array":
            return picture(self.structure)
        if self.render_mode == "human":
            show(self.structure, pause=1.0 / self.metadata["render_fps"])
        return None

    def _observation(self) -> Observation:
        return {key: value[0] for key, value in self.engine.observe().items()}


class KeywordEnv(StructureEnv):
    """An environment made from the keyword arguments of a task.

    Attributes:
        build: From keyword arguments to task and reward.
    """

    build: ClassVar[Callable[..., tuple[Task[Any], Reward]]]

    def __init__(self, *, min_reward: float | None = None, render_mode: str | None = None, **kwargs: Any) -> None:
        task, reward = self.build(**kwargs)
        super().__init__(task, reward, min_reward, render_mode)
