"""Agents that learn within the budget: PPO in the environments of a problem."""

from __future__ import annotations

from typing import Any

import numpy as np

from megen_gym.arena.problem import Problem
from megen_gym.envs.vector import StructureVectorEnv
from megen_gym.errors import InputError, nearest
from megen_gym.rewards.base import EnergyReward, Known, Outcome, Reward
from megen_gym.structure import StructureBatch

ENVS = 8
"""Structures that are built side by side."""

PATIENCE = 20
"""Structures that may be begun for each evaluation of the budget: refused ones cost nothing, but time."""


class Learner:
    """PPO of Stable-Baselines3 that begins untrained and learns within the budget: the covariant agent, or with
    ``policy="mlp"`` SB3's plain network.

    Every finished structure is relaxed where that is possible, handed in, and pays minus its energy; atoms placed on
    the way pay nothing and cost nothing. So it asks for as many energies as a trained policy does.

    Args:
        env: What it is to learn; all its episodes have to end with one composition.
        seed: Of the network and its actions.
        policy: covariant or mlp.
        options: Further settings of ``agents/ppo_train.py``, such as ``learning_rate``.

    Raises:
        InputError: for an environment whose structures differ in composition or whose reward is no energy, or an option
            that is none.
    """

    def __init__(self, env: StructureVectorEnv, seed: int = 0, policy: str = "covariant", **options: Any) -> None:
        from megen_gym.agents.ppo.settings import Settings
        from megen_gym.arena.problem import goal_of

        self.name = "ppo" if policy == "mlp" else policy
        known = list(Settings.__dataclass_fields__)
        for option in options:
            if option not in known:
                raise InputError(f"policy {self.name!r} has no option {option!r}; {nearest(option, known)}")
        if not isinstance(env.engine.reward, EnergyReward) or goal_of(env.task) is None:
            raise InputError(
                f"{self.name!r} learns here from energies of finished structures of one composition; give an energy as "
                "the reward and a fixed bag, or a trained run as NAME@RUN"
            )
        half = ENVS * env.task.max_steps
        defaults: dict[str, Any] = {"num_envs": ENVS, "num_steps_per_iter": 2 * half, "mini_batch_size": half}
        defaults |= {"max_num_train_iters": 4, "policy": policy, "seed": seed}
        self.settings = Settings(**{**defaults, **options})
        self._model(env)

    def search(self, problem: Problem) -> None:
        """Learn until the budget is spent, or :data:`PATIENCE` is at its end."""
        steps = PATIENCE * problem.meter.budget * problem.task.max_steps
        paid = problem.env(self.settings.num_envs, Final(problem))
        self._model(paid).learn(steps)

    def _model(self, env: StructureVectorEnv) -> Any:
        from gymnasium.vector import AutoresetMode

        from megen_gym.agents.ppo.build import make_model
        from megen_gym.envs.sb3 import SB3VecEnv

        if env.num_envs != self.settings.num_envs or env.autoreset_mode is not AutoresetMode.SAME_STEP:
            env = StructureVectorEnv(
                self.settings.num_envs, env.task, env.engine.reward, autoreset_mode=AutoresetMode.SAME_STEP
            )
        adapted = SB3VecEnv(env, self.settings.reward_scale)
        adapted.seed(self.settings.seed)
        return make_model(self.settings, adapted)


class Final(Reward):
    """Pays minus the energy of a finished structure, which it hands in, and nothing for those on the way.

    Args:
        problem: Whose judge is asked.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def __call__(self, before: StructureBatch, after: StructureBatch, known: Known | None = None) -> Outcome:
        value = np.zeros(len(after))
        done = np.flatnonzero(self.problem.meter.complete(after))
        if not len(done):
            return Outcome(value)
        energy = self.problem.judge(after[done])
        failed = {int(done[row]): "the energy is not a number" for row in np.flatnonzero(~np.isfinite(energy))}
        value[done] = np.where(np.isfinite(energy), -energy, 0.0)
        return Outcome(value, errors=failed)
