"""The native Gymnasium vector environment: all environments advance in the same array operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from megen_gym.envs.engine import Engine, Step
from megen_gym.envs.single import RENDER_MODES, step_info
from megen_gym.errors import InputError
from megen_gym.render import ansi, picture, show
from megen_gym.rewards.base import Reward
from megen_gym.structure import BoolArray, FloatArray
from megen_gym.tasks.base import Observation, Task


def make_vec(env_id: str, num_envs: int, **kwargs: Any) -> StructureVectorEnv:
    """A registered environment in mode SAME_STEP, as rollouts and Stable-Baselines3 want it.

    Raises:
        InputError: for an unknown id or argument, or an environment of another library.
    """
    try:
        env = gym.make_vec(env_id, num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **kwargs).unwrapped
    except gym.error.Error as error:
        raise InputError(f"environment {env_id!r} cannot be made ({error}); give an id such as GaCluster-v0") from error
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        name = str(error).rpartition("argument ")[2]
        raise InputError(f"{env_id} has no such argument as {name}; see docs/environments.md") from error
    if not isinstance(env, StructureVectorEnv):
        raise InputError(f"environment {env_id!r} builds no structures; give an id such as GaCluster-v0")
    return env


class StructureVectorEnv(VectorEnv[Observation, NDArray[np.float32], NDArray[Any]]):
    """`num_envs` episodes side by side of any task under any reward.

    Args:
        num_envs: B.
        task: The physics.
        reward: The judge.
        min_reward: Floor of a step's reward and the reward of a refused move; the reward's own choice by default.
        autoreset_mode: ``AutoresetMode.NEXT_STEP`` (an ended episode restarts at the next step, whose action is
            ignored), ``SAME_STEP`` (it restarts at once; the last observation is in ``infos["final_obs"]``) or
            ``DISABLED`` (``reset(options={"reset_mask": mask})`` restarts).
        render_mode: None, "ansi", "rgb_array" or "human".
    """

    metadata = {"render_modes": RENDER_MODES, "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int,
        task: Task[Any],
        reward: Reward,
        min_reward: float | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise InputError(f"num_envs is {num_envs}; give at least 1")
        self.num_envs, self.task, self.render_mode = num_envs, task, render_mode
        self.engine = Engine(task, reward, num_envs, min_reward)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space, self.single_action_space = task.observation_space, task.action_space
        self.observation_space = batch_space(task.observation_space, num_envs)
        self.action_space = batch_space(task.action_space, num_envs)
        self.rngs: list[np.random.Generator] = []
        self.ended: BoolArray = np.zeros(num_envs, dtype=bool)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start episodes everywhere, or where ``options["reset_mask"]`` is true.

        Args:
            seed: Environment i gets `seed` + i, or its own entry of a list; generators go on where it is None.
            options: ``{"reset_mask": (B,) bool}``.
        """
        seeds = (
            list(seed)
            if isinstance(seed, list | tuple)
            else [None if seed is None else seed + i for i in range(self.num_envs)]
        )
        if len(seeds) != self.num_envs:
            raise InputError(f"{len(seeds)} seeds were given for {self.num_envs} environments; give one for each")
        if not self.rngs:
            self.rngs = [seeding.np_random(None)[0] for _ in seeds]
        mask = np.ones(self.num_envs, dtype=bool) if not options else np.asarray(options.get("reset_mask", True))
        if mask.shape not in ((), (self.num_envs,)):
            raise InputError(
                f"reset_mask has shape {mask.shape}; give one entry for each of {self.num_envs} environments"
            )
        mask = np.broadcast_to(mask, self.num_envs)
        if self.engine.state is None and not mask.all():
            raise InputError("reset_mask leaves out environments that never started; reset all of them first")
        seeded = np.array([value is not None for value in seeds])
        for row in np.flatnonzero(mask & seeded):
            self.rngs[row] = seeding.np_random(seeds[row])[0]
        for rows, first in ((np.flatnonzero(mask & seeded), True), (np.flatnonzero(mask & ~seeded), False)):
            if len(rows):
                self._restart(rows, first)
        self.ended = self.ended & ~mask
        return self.engine.observe(), {}

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Observation, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Make one move in every environment; the autoreset mode decides what follows an episode's end."""
        waking = np.flatnonzero(self.ended)
        step = self.engine.step(np.asarray(actions))
        infos = self._infos(step)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP and len(waking):
            self._restart(waking)
            for array in (step.reward, step.terminated, step.truncated):
                array[waking] = 0
            for key in infos:
                infos[key][waking] = 0 if infos[key].dtype != object else None
        ended = step.terminated | step.truncated
        rows = np.flatnonzero(ended)
        observation = self.engine.observe()
        if self.autoreset_mode is AutoresetMode.SAME_STEP and len(rows):
            infos |= self._final(step, observation, rows)
            self._restart(rows)
            observation = self.engine.observe()
        self.ended = ended if self.autoreset_mode is AutoresetMode.NEXT_STEP else np.zeros_like(ended)
        return observation, step.reward, step.terminated, step.truncated, infos

    def action_masks(self) -> BoolArray:
        """(B, S) which discrete actions are allowed now."""
        return self.engine.action_masks()

    def render(self) -> Any:
        """One text or image per environment (a tuple), or a window with the first."""
        atoms = self.engine.structures.to_atoms()
        if self.render_mode == "human":
            return show(atoms[0], pause=1.0 / self.metadata["render_fps"])
        if self.render_mode is None:
            return None
        return tuple(ansi(one) if self.render_mode == "ansi" else picture(one) for one in atoms)

    def _restart(self, rows: NDArray[np.integer[Any]], first: bool = False) -> None:
        self.engine.restart(rows, [self.rngs[row] for row in rows], first)

    def _infos(self, step: Step) -> dict[str, Any]:
        """Gymnasium's vector infos: an array per key and, under ``_key``, where it holds."""
        everywhere, move = np.ones(self.num_envs, dtype=bool), step.move
        flags: dict[str, Any] = {
            "placed": move.placed,
            "valid": move.valid,
            "refused": move.refused,
            "stopped": move.stopped,
            "all_valid": step.clean,
            "n_start": step.n_start,
        }
        infos: dict[str, Any] = {}
        for name, array in step.terms.items():
            told = move.placed | ~np.isnan(array)
            infos[name], infos[f"_{name}"] = np.where(told, array, 0.0), told
        for name, array in flags.items():
            infos[name], infos[f"_{name}"] = array.copy(), everywhere.copy()
        if step.errors:
            infos["error"] = np.full(self.num_envs, None, dtype=object)
            infos["_error"] = np.zeros(self.num_envs, dtype=bool)
            for row, reason in step.errors.items():
                infos["error"][row], infos["_error"][row] = reason, True
        return infos

    def _final(self, step: Step, observation: Observation, rows: NDArray[np.integer[Any]]) -> dict[str, Any]:
        """The last observation and info of the episodes that ended, as Gymnasium's SAME_STEP mode wants them."""
        final = np.full(self.num_envs, None, dtype=object)
        here = np.zeros(self.num_envs, dtype=bool)
        here[rows] = True
        info: dict[str, Any] = {}
        for row in rows:
            final[row] = {key: value[row] for key, value in observation.items()}
            info = self._add_info(info, step_info(step, int(row)), int(row))
        return {"final_obs": final, "_final_obs": here, "final_info": info, "_final_info": here.copy()}


class KeywordVectorEnv(StructureVectorEnv):
    """A vector environment made from the keyword arguments of a task.

    Attributes:
        build: From keyword arguments to task and reward.
    """

    build: ClassVar[Callable[..., tuple[Task[Any], Reward]]]

    def __init__(
        self,
        num_envs: int,
        *,
        min_reward: float | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        task, reward = self.build(**kwargs)
        super().__init__(num_envs, task, reward, min_reward, autoreset_mode, render_mode)
