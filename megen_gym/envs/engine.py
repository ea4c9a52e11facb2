"""Task + reward, stepped for B environments at once: the one place where an episode advances.

:class:`~megen_gym.envs.single.StructureEnv` (B = 1), :class:`~megen_gym.envs.vector.StructureVectorEnv` and the
Stable-Baselines3 adapter are thin shells around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from megen_gym.errors import InputError
from megen_gym.rewards.base import Reward
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch
from megen_gym.tasks.base import Move, Observation, Task, put


@dataclass
class Step:
    """What one step of B environments gave; all arrays have B rows.

    Attributes:
        reward: Reward of each move.
        terminated: The task is over.
        truncated: The step limit is reached, or the reward could not be computed.
        move: What became of the actions.
        terms: Named parts of the reward. Where nothing was placed: what is known of the structure as it stands (its
            energy, its worth), NaN for the others.
        errors: Why a reward could not be computed, by row.
        n_start: Atoms on the canvas when the episode began.
        clean: Every move of the episode so far placed an atom within the windows (or was a stop).
    """

    reward: FloatArray
    terminated: BoolArray
    truncated: BoolArray
    move: Move
    terms: dict[str, FloatArray]
    errors: dict[int, str]
    n_start: IntArray
    clean: BoolArray


class Engine:
    """B independent episodes of one task under one reward.

    Args:
        task: The physics.
        reward: The judge.
        size: B.
        min_reward: Floor of a step's reward, and the reward of a refused move; by default there is no floor and the
            reward says what a refused move costs.
    """

    def __init__(self, task: Task[Any], reward: Reward, size: int, min_reward: float | None = None) -> None:
        self.task, self.reward, self.size = task, reward, size
        self.floor = -np.inf if min_reward is None else float(min_reward)
        self.invalid = reward.invalid if min_reward is None else float(min_reward)
        self.episode = np.full(size, -1, dtype=np.int64)
        self.n_start = np.zeros(size, dtype=np.int64)
        self.clean = np.ones(size, dtype=bool)
        self.state: Any = None
        self.known: dict[str, FloatArray] = {}

    def restart(self, rows: IntArray, rngs: Sequence[np.random.Generator], first: bool = False) -> None:
        """Begin new episodes in `rows`, each with random numbers of its own generator.

        Args:
            rows: Environments to restart.
            rngs: One generator for each of them.
            first: Count their episodes from 0 again (after seeding).
        """
        if first:
            self.episode[rows] = -1
        self.episode[rows] += 1
        uniform = np.stack([rng.random(self.task.draws) for rng in rngs])
        fresh = self.task.initial(uniform, self.episode[rows])
        self.state = fresh if len(rows) == self.size else put(self.state, rows, fresh)
        self.n_start[rows], self.clean[rows] = self.structures.n_atoms[rows], True
        for array in self.known.values():
            array[rows] = np.nan

    @property
    def structures(self) -> StructureBatch:
        """The canvases as they are."""
        return self.task.structures(self.state)

    def observe(self) -> Observation:
        """(B, ...) arrays of what the policies see."""
        return self.task.observation(self.state)

    def action_masks(self) -> BoolArray:
        """(B, S) which discrete actions are allowed; all of them where an episode is over and none counts.

        Raises:
            InputError: when actions are continuous.
        """
        if not isinstance(self.task.action_space, gym.spaces.Discrete):
            raise InputError(
                f"actions are {self.task.action_space}, which has no masks; MaskablePPO needs discrete ones "
                "(CrystalSlots-v0 with free='species'), use PPO here"
            )
        mask = self.observe()["element_mask"] > 0
        return np.asarray(mask | ~mask.any(1, keepdims=True))

    def step(self, action: FloatArray) -> Step:
        """Advance every environment by one move.

        Args:
            action: (B, A) in [-1, 1], or (B,) indices.
        """
        before = self.structures
        self.state, move = self.task.transition(self.state, action)
        reward = np.where(move.refused, self.invalid, 0.0)
        terms: dict[str, FloatArray] = {}
        errors: dict[int, str] = {}
        rows = np.flatnonzero(move.placed)
        if len(rows):
            known = {name: array[rows] for name, array in self.known.items()} or None
            outcome = self.reward(before[rows], self.structures[rows], known)
            reward[rows] = np.maximum(outcome.value, self.floor)
            for name, part in outcome.terms.items():
                terms[name] = np.full(self.size, np.nan)
                terms[name][rows] = part
            for name, part in outcome.known.items():
                self.known.setdefault(name, np.full(self.size, np.nan))[rows] = part
            errors = {int(rows[row]): reason for row, reason in outcome.errors.items()}
        idle = np.flatnonzero(move.stopped | move.refused)
        if len(idle):
            for name, array in self.known.items():
                terms.setdefault(name, np.full(self.size, np.nan))[idle] = array[idle]
        self.clean &= ~move.refused & (move.valid | ~move.placed)
        failed = np.zeros(self.size, dtype=bool)
        failed[list(errors)] = True
        reward[failed] = 0.0
        terminated = self.task.terminal(self.state) & ~failed
        truncated = failed | (~terminated & (self.state.steps >= self.task.max_steps))
        return Step(reward, terminated, truncated, move, terms, errors, self.n_start.copy(), self.clean.copy())
