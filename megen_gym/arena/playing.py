"""How policies enter: they play episodes until the budget is spent."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np

from megen_gym.arena.meter import Spent
from megen_gym.arena.problem import Problem, Unpaid
from megen_gym.errors import InputError
from megen_gym.rollout import Policy, rollout

IDLE_ROUNDS = 100
"""Rounds without a judged structure after which a policy is given up."""

FAR = 1_000_003
"""Between the seeds of two entrants' episodes."""


@runtime_checkable
class Search(Protocol):
    """An entrant that decides for itself what is judged when: basin hopping, an agent that learns on the way."""

    def search(self, problem: Problem) -> None:
        """Hand in structures (:meth:`.problem.Problem.judge`) until :class:`.meter.Spent` is raised."""


Entrant = Policy | Search


def enter(entrant: Entrant, problem: Problem) -> None:
    """Let an entrant spend the budget; what it found is in ``problem.found``."""
    try:
        if isinstance(entrant, Search):
            entrant.search(problem)
        else:
            play(entrant, problem)
    except Spent:
        return


def play(policy: Policy, problem: Problem) -> None:
    """Episodes until the budget is spent: the first is the policy's best guess, all others are drawn.

    Under an energy only finished structures are judged, once, after relaxation if there is one; a policy that looks at
    the reward while it builds (it has an attribute `reward`) pays for that too. Under another reward every placement is
    judged.

    Raises:
        Spent: at the end.
        InputError: for a policy that builds nothing.
    """
    looks = getattr(policy, "reward", None) is not None
    free = problem.is_energy
    size = 1 if looks else problem.width
    env = problem.env(size, Unpaid() if free else None)
    episode, idle = 0, 0
    while idle < IDLE_ROUNDS:
        problem.meter.reserve(1)
        count, before = 1 if episode == 0 else size, problem.meter.used
        played = rollout(policy, env, count, seed=problem.seed * FAR + episode, deterministic=episode == 0)
        episode += count
        built = np.flatnonzero(played.structures.n_atoms > 0)
        batch, clean = played.structures[built], played.valid[built]
        if free:
            problem.judge(batch, clean)
        else:
            failed = np.isin(built, list(played.errors))
            problem.offer(batch, np.where(failed, np.nan, -played.episode_return[built]), clean)
        idle = idle + 1 if problem.meter.used == before else 0
    raise InputError(f"the policy finished {IDLE_ROUNDS} rounds of episodes without building anything; check it")


def check_fits(entrant: Any) -> None:
    """Refuse what is no entrant.

    Raises:
        InputError: naming what is missing.
    """
    if not isinstance(entrant, Search) and not callable(getattr(entrant, "predict", None)):
        raise InputError(
            f"a {type(entrant).__name__} is no policy; give something with predict(observation, state, episode_start, "
            "deterministic), or with search(problem)"
        )
