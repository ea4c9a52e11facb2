"""Basin hopping whose moves a policy makes: some atoms are taken away, and the policy puts them back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from megen_gym.agents.search.common import atoms_of, hop_energy, require_moving
from megen_gym.agents.search.taking import loosest, without
from megen_gym.agents.search.throwing import thrown_symmetric
from megen_gym.arena.found import valid_structures
from megen_gym.arena.playing import IDLE_ROUNDS
from megen_gym.arena.problem import Problem, Unpaid
from megen_gym.envs.vector import StructureVectorEnv
from megen_gym.errors import InputError
from megen_gym.rollout import Policy, rollout
from megen_gym.structure import StructureBatch
from megen_gym.tasks.cluster import ClusterTask

SHARPNESS = 0.15
"""Contacts, temperature of the policy ``compact`` here: half of what it has alone, for most of the structure stands."""

SHARE = 0.5
"""Of the moves, that a trained policy makes."""

SHORT = 3
"""Moves without a new best after which a search from a symmetric structure gives way to the next."""

FIRST = 10
"""Moves without a new best after which the first search from a built structure ends; each later one gets twice as many
as the one before it."""

ALIKE = 1 / 30
"""In kT; minima whose energies are nearer than about this count as the same when visits are counted."""


class Regrow:
    """A policy as the proposal of basin hopping.

    It starts from a structure that the policy builds. Each move takes 1 to `most` atoms away, those with few
    neighbours first, lets the policy place them anew, relaxes, and accepts as Metropolis would. The relaxations are
    short, for most of the structure is a minimum already, and an atom crosses the whole cluster in one move. From a
    structure that keeps the rules of the task it never moves to one that breaks them. After some moves without a
    new best, 10, 20, 40 and so on up to `patience`, the policy builds again from nothing. A minimum seems higher by
    `penalty` kT after each visit, which drives the search on (energy landscape paving, Hansmann and Wille, Phys.
    Rev. Lett. 88, 068105 (2002), doi 10.1103/PhysRevLett.88.068105); every other time that the policy builds, the
    search does without.

    A policy that places atom after atom favours one kind of growth, that of icosahedra under Lennard-Jones' energy.
    So the search also starts from random symmetric structures, as ``symmetric_search`` does, many times and for few
    moves each.

    Args:
        env: Clusters or molecules, whose task the policy plays.
        seed: Of the policies, if they have random numbers of their own.
        run: A trained covariant agent; None for `policy`.
        dir: Folder of the runs.
        policy: Who makes the moves: compact, random, or any other policy, such as gschnet@RUN.
        policy_kwargs: Options of that policy.
        share: Of the moves, that the policy makes; ``compact`` makes the others. By default a half for a trained
            policy, which repeats itself, and all for others.
        most: Atoms that one move may take away; by default a sixth of the structure.
        temperature: eV, kT of the choice; by default 0.2 of the energy per atom of the first structure.
        patience: Moves without a new best, at most, before the search starts again.
        penalty: kT by which a visit raises a minimum; 0 for plain basin hopping.
        symmetric: Share of the evaluations that is spent from symmetric structures on; by default a half for clusters
            of one element without a scaffold, none for others.

    Raises:
        InputError: for an environment without clusters or without an energy, or numbers out of range.
    """

    def __init__(
        self,
        env: StructureVectorEnv,
        seed: int = 0,
        run: str | None = None,
        dir: str | Path = "runs",
        policy: str = "compact",
        policy_kwargs: dict[str, Any] | None = None,
        share: float | None = None,
        most: int | None = None,
        temperature: float | None = None,
        patience: int = 200,
        penalty: float = 1.0,
        symmetric: float | None = None,
    ) -> None:
        from megen_gym.agents.registry import make_policy

        require_moving(env, "regrow")
        if not isinstance(env.task, ClusterTask):
            raise InputError("regrow takes atoms off clusters and molecules; give such an environment, or leave it out")
        positive = patience >= 1 and (most is None or most >= 1) and (temperature is None or temperature > 0)
        if not positive or not 0 <= penalty < np.inf:
            raise InputError(
                f"most {most}, temperature {temperature}, patience {patience}, penalty {penalty} cannot be used; "
                "give numbers above 0, and a penalty of 0 or more"
            )
        for name, value in (("symmetric", symmetric), ("share", share)):
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; give a share from 0 to 1")
        if symmetric is None:
            symmetric = 0.5 if len(env.task.symbols) == 2 and env.task.scaffold is None else 0.0
        if strange := sorted({"seed", "dir"} & set(policy_kwargs or {})):
            raise InputError(f"policy_kwargs holds {', '.join(strange)}, which regrow gives itself; leave that out")
        self.most, self.temperature, self.patience, self.penalty = most, temperature, patience, penalty
        self.symmetric = symmetric
        name = policy if run is None else f"covariant@{run}"
        self.share = share if share is not None else SHARE if "@" in name else 1.0
        sharp: dict[str, Any] = {"temperature": SHARPNESS}
        options = (sharp if name == "compact" else {}) | (policy_kwargs or {})
        self.policy: Policy = make_policy(name, env, seed=seed, dir=dir, **options)
        self.other: Policy = make_policy("compact", env, seed=seed, **sharp) if self.share < 1 else self.policy
        if not callable(getattr(self.policy, "predict", None)):
            raise InputError(f"policy {name!r} is a search and makes no moves; give compact, random, or a trained run")

    def search(self, problem: Problem) -> None:
        """Build, then take away and put back, until the budget is spent."""
        rng = np.random.default_rng(problem.seed)
        visits: Counter[int] = Counter()
        spent = {True: 0, False: 0}
        begun, idle, self.heat = 0, 0, 0.0
        while True:
            before = problem.meter.used
            symmetric = (spent[True] + 1) * (1 - self.symmetric) <= spent[False] * self.symmetric
            if symmetric:
                structure = thrown_symmetric(atoms_of(problem, problem.meter.used), rng)
            else:
                structure = self._built(problem, begun)
            begun += not symmetric
            energy = float(problem.judge(structure)[0])
            incomplete = problem.meter.goal is not None and not problem.meter.complete(structure)[0]
            if np.isfinite(energy) and not incomplete:
                patience = SHORT if symmetric else min(self.patience, FIRST * 2 ** (begun - 1))
                paved = None if symmetric or begun % 2 == 0 else visits
                self._hop(problem, self._last(problem, structure), energy, rng, patience, paved)
            idle = idle + 1 if problem.meter.used == before else 0
            if idle >= IDLE_ROUNDS:
                raise InputError(f"the policy built nothing in {IDLE_ROUNDS} tries; check it")
            spent[symmetric] += problem.meter.used - before

    def _hop(
        self,
        problem: Problem,
        structure: StructureBatch,
        energy: float,
        rng: np.random.Generator,
        patience: int,
        visits: Counter[int] | None,
    ) -> None:
        """Move on from a minimum until `patience` moves have brought no new best; where `visits` are counted, minima
        seem higher by them."""
        self.heat = self.heat or hop_energy(energy, int(structure.n_atoms[0]), self.temperature)
        paving = Counter[int]() if visits is None else visits
        penalty = 0.0 if visits is None else self.penalty
        best, since, sound = energy, 0, _sound(problem, structure)
        while since < patience:
            proposal = self._moved(problem, structure, rng)
            value = float(problem.judge(proposal)[0])
            since += 1
            if not np.isfinite(value):
                continue
            relaxed = self._last(problem, proposal)
            better = _sound(problem, relaxed) - sound
            if better > 0 or (better == 0 and value < best - 1e-6):
                best, since = value, 0
            here, there = (round(one / (ALIKE * self.heat)) for one in (energy, value))
            rise = (value - energy) / self.heat + penalty * (paving[there] - paving[here])
            if better > 0 or (better == 0 and rng.random() < np.exp(-max(rise, 0.0))):
                structure, energy, here, sound = relaxed, value, there, sound + better
            paving[here] += 1

    def _built(self, problem: Problem, number: int) -> StructureBatch:
        played = rollout(
            self.policy, problem.env(1, Unpaid()), 1, seed=problem.seed + number, deterministic=number == 0
        )
        return played.structures

    def _last(self, problem: Problem, like: StructureBatch) -> StructureBatch:
        """What was handed in last, centred."""
        positions = problem.found[-1].positions
        species = problem.found[-1].species
        return StructureBatch.trusted((positions - positions.mean(0))[None], species[None], like.symbols)

    def _moved(self, problem: Problem, structure: StructureBatch, rng: np.random.Generator) -> StructureBatch:
        """The structure with some atoms placed anew; as it was if the policy fails to."""
        count = int(structure.n_atoms[0])
        if count < 3:
            return structure
        most = min(self.most or -(-count // 6), count - 2)
        taken = loosest(structure.positions[0], int(rng.integers(1, most + 1)), rng)
        task = problem.task
        assert isinstance(task, ClusterTask)
        state = without(task, structure, taken)
        episode_start = np.ones(1, dtype=bool)
        policy = self.policy if rng.random() < self.share else self.other
        memory: Any = None
        for _ in range(len(taken)):
            action, memory = policy.predict(task.observation(state), memory, episode_start, False)
            state, _ = task.transition(state, np.asarray(action))
            episode_start = np.zeros(1, dtype=bool)
        grown = task.structures(state)
        return grown if grown.n_atoms[0] == count else structure


def _sound(problem: Problem, structure: StructureBatch) -> int:
    """1 for a structure in one piece within the rules of the task, else 0."""
    return int(valid_structures(problem.task, structure)[0])
