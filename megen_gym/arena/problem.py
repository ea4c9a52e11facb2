"""What an entrant is given: a task, a judge that counts, and a place to hand in structures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from megen_gym.arena.meter import Meter, MeteredEnergy, MeteredReward, metered
from megen_gym.envs.vector import StructureVectorEnv, make_vec
from megen_gym.errors import InputError
from megen_gym.rewards.base import Known, Outcome, Reward
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch
from megen_gym.tasks.base import Task
from megen_gym.tasks.cluster import ClusterTask
from megen_gym.tasks.slots import SlotsTask

RELAX_LIMIT = 500
"""Evaluations that one relaxation may take."""


class Unpaid(Reward):
    """Pays nothing and costs nothing: a policy that does not look at rewards plays under it."""

    invalid = 0.0

    def __call__(self, before: StructureBatch, after: StructureBatch, known: Known | None = None) -> Outcome:
        return Outcome(np.zeros(len(after)))


@dataclass(frozen=True)
class Found:
    """A structure that was handed in.

    Attributes:
        evaluations: Spent until then.
        value: eV, or minus the return where the reward is no energy; low is good, NaN where there is none.
        clean: Every placement kept the rules, where it was placed at all.
        minimum: It was relaxed until the forces vanished.
        positions: (n, 3) Å.
        species: (n,) index into the task's symbols.
        cell: (3, 3) Å, or None.
    """

    evaluations: int
    value: float
    clean: bool
    minimum: bool
    positions: FloatArray
    species: IntArray
    cell: FloatArray | None


@dataclass
class Problem:
    """One environment under one reward, a budget and a seed.

    Attributes:
        task: Of the environment.
        reward: Its reward; every structure that it judges is counted.
        meter: The count.
        seed: Of everything that is random.
        relaxes: Whether structures are relaxed before they are handed in.
        fmax: eV/Å, largest component of a force in what counts as relaxed.
        relax_limit: Evaluations that one relaxation may take.
        fixed: Atoms that stand still, the first ones of every structure: those that a crystal's template keeps.
        found: What was handed in, in order.
    """

    task: Task[Any]
    reward: MeteredReward | MeteredEnergy
    meter: Meter
    seed: int
    relaxes: bool
    fmax: float = 0.05
    relax_limit: int = RELAX_LIMIT
    fixed: int = 0
    found: list[Found] = field(default_factory=list)

    @classmethod
    def make(
        cls,
        env_id: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        budget: int = 1000,
        seed: int = 0,
        relax: bool = True,
        fmax: float = 0.05,
        known_minimum: float | None = None,
        tolerance: float = 1e-3,
    ) -> Problem:
        """A problem from the id and the keyword arguments of an environment.

        Args:
            env_id: Registered id.
            arguments: Of the environment.
            budget: Evaluations.
            seed: Of everything that is random.
            relax: Relax where the reward has forces.
            fmax: eV/Å (epsilon/Å under lennard_jones).
            known_minimum: eV; by default what the reward knows.
            tolerance: eV (or epsilon); energies up to this above the known minimum are hits.

        Raises:
            InputError: as the environment, for a budget or tolerance below what makes sense, or for a known minimum
                where structures differ in composition.
        """
        wrong = {
            f"budget is {budget}; give 1 evaluation or more": budget < 1,
            f"seed is {seed}; give a number from 0 up to 2^32 - 1": not 0 <= seed < 2**32,
            f"fmax is {fmax}; give a force above 0": not fmax > 0,
            f"tolerance is {tolerance}; give 0 or more": not tolerance >= 0,
        }
        for told, is_so in wrong.items():
            if is_so:
                raise InputError(told)
        engine = make_vec(env_id, 1, **(arguments or {})).engine
        meter = Meter(budget, goal_of(engine.task))
        reward = metered(engine.reward, meter)
        unit, relaxes = 1.0, False
        if isinstance(reward, MeteredEnergy):
            reward.inner.prepare(engine.task.symbols)
            unit, relaxes = reward.inner.unit, relax and reward.has_forces
        fixed = engine.task.template.n_kept if isinstance(engine.task, SlotsTask) else 0
        problem = cls(engine.task, reward, meter, seed, relaxes, fmax * unit, fixed=fixed)
        if known_minimum is not None and (meter.goal is None or not np.isfinite(known_minimum)):
            raise InputError(
                f"known_minimum {known_minimum} cannot be used with {env_id}; give a finite number, and an environment "
                "whose structures all have one composition"
            )
        known = np.nan if known_minimum is None else known_minimum
        if known_minimum is None and meter.goal is not None and isinstance(reward, MeteredEnergy):
            species = np.repeat(np.arange(len(meter.goal)), meter.goal)[None]
            blank = StructureBatch.trusted(np.zeros((*species.shape, 3)), species, engine.task.symbols)
            known = float(reward.known_minimum(blank)[0])
        meter.target = known + tolerance * unit
        return problem

    @property
    def is_energy(self) -> bool:
        """Whether structures are judged by their energy, without regard to how they were built."""
        return isinstance(self.reward, MeteredEnergy)

    @property
    def width(self) -> int:
        """Structures to build side by side: few where the budget is small, so that little of it is left over."""
        return int(np.clip(self.meter.budget // 200, 1, 16))

    def env(self, size: int, reward: Reward | None = None) -> StructureVectorEnv:
        """`size` environments side by side under the counted reward, or another."""
        chosen = self.reward if reward is None else reward
        return StructureVectorEnv(size, self.task, chosen, autoreset_mode=AutoresetMode.SAME_STEP)

    def offer(
        self,
        batch: StructureBatch,
        value: FloatArray,
        clean: BoolArray | bool = True,
        minimum: BoolArray | bool = False,
    ) -> None:
        """Hand in structures (B,) with what the judge said of them; see :class:`Found`."""
        spent, size = self.meter.used, len(batch)
        told = zip(np.broadcast_to(clean, size), np.broadcast_to(minimum, size), strict=True)
        for row, (tidy, still) in enumerate(told):
            count = int(batch.n_atoms[row])
            self.found.append(
                Found(
                    spent, float(value[row]), bool(tidy), bool(still), batch.positions[row, :count].copy(),
                    batch.species[row, :count].copy(), None if batch.cell is None else batch.cell[row].copy(),
                )
            )  # fmt: skip

    def judge(self, batch: StructureBatch, clean: BoolArray | bool = True) -> FloatArray:
        """Relax where that is wanted, and hand in: what becomes of a structure that an entrant has built.

        Returns:
            (B,) eV of what was handed in.

        Raises:
            Spent: when the budget ends; the structures before are handed in, the one being relaxed is not.
        """
        from megen_gym.arena.relaxing import relax_row

        assert isinstance(self.reward, MeteredEnergy)
        energies = np.full(len(batch), np.nan)
        tidy = np.broadcast_to(clean, len(batch))
        for row in range(len(batch)):
            one, minimum = batch[row : row + 1], False
            if self.relaxes:
                one, energies[row], minimum = relax_row(self.reward, one, self.fmax, self.relax_limit, self.fixed)
            else:
                energies[row] = self.reward.energy_errors(one)[0][0]
            self.offer(one, energies[row : row + 1], tidy[row : row + 1], minimum)
        return energies


def goal_of(task: Task[Any]) -> IntArray | None:
    """(S,) atoms of each species in a finished structure; None where that differs from episode to episode."""
    if isinstance(task, ClusterTask):
        draws = np.random.default_rng(0).random((16, task.draws))
        state = task.initial(draws, np.arange(16))
        present = (state.species[..., None] == np.arange(len(task.symbols))).sum(1) * (np.arange(len(task.symbols)) > 0)
        counts = present + state.bag + state.refill * state.refills[:, None]
        return None if task.stop or (counts != counts[0]).any() else np.asarray(counts[0])
    if isinstance(task, SlotsTask) and task.free is None and task.stop is None:
        return np.asarray(task.template.counts() + np.bincount(
            task.template.species[: task.template.n_kept], minlength=len(task.symbols)
        ))  # fmt: skip
    return None
