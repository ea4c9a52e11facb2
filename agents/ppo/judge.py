"""The agent beside the baselines, on the same held-out episodes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from megen_gym.agents.baselines import Greedy, RandomValid
from megen_gym.analysis.table import Style, quality, quality_table
from megen_gym.arena.found import valid_structures
from megen_gym.envs.clusters import SEEDS, load_starts
from megen_gym.envs.vector import StructureVectorEnv
from megen_gym.rewards.base import EnergyReward, Reward
from megen_gym.rollout import Policy, Rollout, rollout
from megen_gym.structure import BoolArray
from megen_gym.tasks.cluster import ClusterTask
from megen_gym.tasks.slots import SlotsTask

Building = ClusterTask | SlotsTask
"""Tasks that the baselines play."""

GREEDY = 10
"""Candidates that the greedy baseline judges per placement."""


def baselines(task: Building, reward: Reward, seed: int = 0) -> dict[str, Policy]:
    """Policies that learn nothing."""
    return {"random valid": RandomValid(task, seed), f"greedy of {GREEDY}": Greedy(task, reward, GREEDY, seed)}


def probe(env: StructureVectorEnv) -> None:
    """Judge one placement, so that a reward that does not fit the task is refused before anything is written.

    Raises:
        InputError: what the reward says.
    """
    env.reset(seed=0)
    task, engine = env.task, env.engine
    assert isinstance(task, Building)
    action, _ = RandomValid(task).predict(engine.observe())
    after, _ = env.task.transition(engine.state, action)
    engine.reward(engine.structures[:1], env.task.structures(after)[:1])


def complete_and_valid(task: Building, played: Rollout) -> BoolArray:
    """(M,) every placement kept the rules, and so does the final structure as a whole."""
    return np.asarray(played.valid & valid_structures(task, played.structures))


def lowest_known(reward: Reward, symbols: tuple[str, ...]) -> dict[str, float]:
    """eV by formula of the best bundled cluster, as the reward sees it; empty where there is none."""
    if symbols != ("X", "Ga") or not isinstance(reward, EnergyReward) or not SEEDS.exists():
        return {}
    seeds = load_starts("seeds")
    energy = reward.energy(seeds)
    return {f"Ga{size}": float(energy[seeds.n_atoms == size].min()) for size in np.unique(seeds.n_atoms)}


def compare(policies: Mapping[str, Policy], env: StructureVectorEnv, episodes: int, seed: int) -> dict[str, Rollout]:
    """The baselines and `policies` on the same episodes."""
    task, reward = env.task, env.engine.reward
    assert isinstance(task, Building)
    everyone = baselines(task, reward, seed) | dict(policies)
    return {name: rollout(policy, env, episodes, seed=seed) for name, policy in everyone.items()}


def table(played: Mapping[str, Rollout], env: StructureVectorEnv, style: Style = "text") -> str:
    """The quality table; the best known energy is that of the bundled clusters or of any structure in the table."""
    task, reward = env.task, env.engine.reward
    assert isinstance(task, Building)
    good = {name: complete_and_valid(task, result) for name, result in played.items()}
    known = lowest_known(reward, task.symbols) if isinstance(task, ClusterTask) else {}
    for name, result in played.items():
        for atoms, energy, fine in zip(result.structures.to_atoms(), result.energy, good[name], strict=True):
            if fine and np.isfinite(energy):
                formula = atoms.get_chemical_formula()
                known[formula] = min(known.get(formula, np.inf), float(energy))
    rows = [
        quality(
            name,
            result.structures,
            result.energy,
            valid=good[name],
            best_known=known,
            evaluations=result.placements * (GREEDY if name.startswith("greedy") else 1),
            rewards=result.episode_return,
            method="soap" if any(result.structures.pbc) else "distances",
        )
        for name, result in played.items()
    ]
    return quality_table(rows, style)
