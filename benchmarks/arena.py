"""What the arena costs: the same work with and without it, in one process: ``python benchmarks/arena.py``.

*Bare* calls policy, reward and SciPy directly; *arena* does the same through :class:`megen_gym.arena.problem.Problem`.
Both spend the same evaluations on the same structures. Rounds alternate, and the fastest of each are compared, for
other work on the machine only ever adds time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np

from megen_gym.agents.baselines import RandomValid
from megen_gym.analysis.table import render
from megen_gym.arena.playing import enter
from megen_gym.arena.problem import Problem, Unpaid
from megen_gym.arena.relaxing import relax_row
from megen_gym.rewards.base import EnergyReward
from megen_gym.rollout import rollout

ROUNDS = 7


def bare(problem: Problem, structures: int) -> int:
    """Build and relax `structures` structures; returns how many evaluations that took."""
    reward = problem.reward.inner
    assert isinstance(reward, EnergyReward)
    count = 0
    original = reward.energy_forces

    def counted(batch: object) -> object:
        nonlocal count
        count += 1
        return original(batch)  # type: ignore[arg-type]

    reward.energy_forces = counted  # type: ignore[method-assign, assignment]
    policy, episode = RandomValid(problem.task, problem.seed), 0
    env = problem.env(problem.width, Unpaid())
    while episode < structures:
        size = 1 if episode == 0 else problem.width
        played = rollout(policy, env, size, seed=problem.seed * 1_000_003 + episode, deterministic=episode == 0)
        episode += size
        for row in range(size):
            relax_row(reward, played.structures[row : row + 1], problem.fmax, problem.relax_limit)
    reward.energy_forces = original  # type: ignore[method-assign]
    return count


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def ratio(env: str, arguments: dict[str, object], structures: int) -> list[str]:
    """A row of the table."""
    evaluations = bare(Problem.make(env, arguments, budget=10**9, seed=0), structures)
    pairs = []
    for seed in range(ROUNDS):
        alone = Problem.make(env, arguments, budget=10**9, seed=seed)
        spent = 0

        def work(problem: Problem = alone) -> None:
            nonlocal spent
            spent = bare(problem, structures)

        first = seconds(work)
        problem = Problem.make(env, arguments, budget=spent, seed=seed)
        policy = RandomValid(problem.task, seed)
        second = seconds(lambda problem=problem, policy=policy: enter(policy, problem))  # type: ignore[misc]
        pairs.append((first / spent, second / problem.meter.used))
    times = np.array(pairs)
    fastest = times.min(0)
    share = fastest[1] / fastest[0] - 1
    return [
        f"{env} {arguments}", str(evaluations), f"{1e6 * fastest[0]:.0f}",
        f"{1e6 * fastest[1]:.0f}", f"{100 * share:+.1f} %",
    ]  # fmt: skip


if __name__ == "__main__":
    cells = [["policy random, relaxed", "evaluations", "bare (µs each)", "arena (µs each)", "overhead"]]
    cells.append(ratio("LJCluster-v0", {"n": 13}, 97))
    cells.append(ratio("LJCluster-v0", {"n": 38}, 33))
    cells.append(ratio("Cluster-v0", {"formula": "Cu7", "reward": "emt"}, 9))
    print(render(cells))
