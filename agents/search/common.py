"""What searches share: where they begin, the scale of their hops, and the counted energy as an ASE calculator."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from megen_gym.agents.baselines import RandomValid
from megen_gym.arena.problem import Problem, Unpaid
from megen_gym.envs.vector import StructureVectorEnv
from megen_gym.errors import InputError
from megen_gym.rewards.base import EnergyReward
from megen_gym.rollout import rollout
from megen_gym.structure import FloatArray, StructureBatch
from megen_gym.tasks.cluster import ClusterTask
from megen_gym.tasks.slots import SlotsTask, SpeciesSlots
from megen_gym.tasks.wyckoff import WyckoffTask

REFUSED = 1e6
"""eV; of structures that a calculator cannot judge, so that no search accepts them."""

WARMTH = {True: 0.2, False: 0.05}
"""kT of hopping searches in units of the energy per atom, with and without relaxation: 0.7 epsilon for LJ13 (Wales and
Doye, 1997, took 0.8), 0.1 eV for gallium under an energy without forces."""

STRIDE = {True: 0.36, False: 0.12}
"""Largest displacement of hops in units of the nearest-neighbour distance, with and without relaxation."""


def require_moving(env: StructureVectorEnv, name: str) -> None:
    """Refuse environments in which a search that moves atoms has nothing to do.

    Raises:
        InputError: where elements, not positions, are sought, or where the reward is no energy.
    """
    task = env.task
    if not isinstance(task, ClusterTask | SlotsTask) or isinstance(task, SpeciesSlots):
        raise InputError(
            f"{name} moves atoms, which {type(task).__name__} does not ask for; give it clusters, molecules or slots "
            "whose positions are free, or leave it out"
        )
    if not isinstance(env.engine.reward, EnergyReward):
        raise InputError(
            f"{name} follows an energy, and the reward {reward_name(env)} is none; give an energy such "
            "as lennard_jones, soap_ridge, dart or a calculator, or leave it out"
        )


def require_forces(env: StructureVectorEnv, name: str, instead: str) -> None:
    """Refuse energies without forces.

    Raises:
        InputError: saying what may be used `instead`.
    """
    if not getattr(env.engine.reward, "has_forces", False):
        raise InputError(
            f"{name} needs forces, which {reward_name(env)} does not give; use lennard_jones, soap_ridge or a "
            f"calculator as the reward, or {instead}"
        )


def reward_name(env: StructureVectorEnv) -> str:
    """What the reward of an environment is called, without the arena's count around it."""
    return type(getattr(env.engine.reward, "inner", env.engine.reward)).__name__


def require_positive(**values: float | None) -> None:
    """Refuse numbers that are not positive; None stands for a default.

    Raises:
        InputError: naming all of them.
    """
    if not all(value is None or value > 0 for value in values.values()):
        told = ", ".join(f"{name} {value}" for name, value in values.items())
        raise InputError(f"{told} cannot be used; give numbers above 0, or leave them out")


def starting_structure(problem: Problem, number: int = 0, least: int = 1) -> StructureBatch:
    """A random valid structure of the problem, as built; costs nothing.

    Raises:
        InputError: if it has fewer than `least` atoms.
    """
    task = problem.task
    assert isinstance(task, ClusterTask | SlotsTask | WyckoffTask)
    policy = RandomValid(task, seed=problem.seed + number)
    played = rollout(policy, problem.env(1, Unpaid()), 1, seed=problem.seed + number)
    count = int(played.structures.n_atoms[0])
    whole = played.structures
    if count < least:
        raise InputError(f"a structure of {count} atom has nothing to hop over; give {least} atoms or more")
    return StructureBatch.trusted(
        whole.positions[:, :count], whole.species[:, :count], whole.symbols, whole.cell, whole.pbc
    )


def atoms_of(problem: Problem, number: int = 0) -> StructureBatch:
    """One structure with the atoms, and the cell, that the problem asks for; what matters is not where they are.

    Args:
        problem: Of clusters, molecules or crystals.
        number: Of the episode, where compositions differ from one to the next.
    """
    goal = problem.meter.goal
    if goal is None or not isinstance(problem.task, ClusterTask):
        return starting_structure(problem, number)
    species = np.repeat(np.arange(len(goal)), goal)[None]
    return StructureBatch.trusted(np.zeros((*species.shape, 3)), species, problem.task.symbols)


def hop_length(positions: FloatArray, step: float | None, relaxes: bool = True) -> float:
    """Å, largest displacement along an axis: `step` where it is given, else :data:`STRIDE` of the mean distance of
    nearest neighbours of (n, 3) positions."""
    if step is not None:
        return step
    if len(positions) < 2:
        return STRIDE[relaxes]
    distances = np.linalg.norm(positions[:, None] - positions, axis=2) + np.where(np.eye(len(positions)), np.inf, 0)
    return STRIDE[relaxes] * float(distances.min(1).mean())


def hop_energy(energy: float, count: int, temperature: float | None, relaxes: bool = True) -> float:
    """kT in eV: `temperature` where it is given, else :data:`WARMTH` of the energy per atom (of 1 eV per atom where
    there is no energy)."""
    if temperature is not None:
        return temperature
    if not abs(energy) < REFUSED:
        energy = float(count)
    return max(WARMTH[relaxes] * abs(energy) / max(count, 1), 1e-3)


def told(energy: float) -> FloatArray:
    """(1,) eV as it is handed in: NaN for what a calculator could not judge."""
    return np.array([energy if energy < REFUSED else np.nan])


class CountedCalculator(Calculator):
    """The counted energy as an ASE calculator; where it has no forces, they are zero and nothing moves downhill.

    Args:
        problem: Whose reward is asked.
        like: A structure with its cell and its species.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, problem: Problem, like: StructureBatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.problem, self.like = problem, like

    def batch(self, atoms: Atoms) -> StructureBatch:
        """`atoms` as the reward wants them."""
        return StructureBatch.trusted(
            np.array(atoms.positions)[None], self.like.species, self.like.symbols, self.like.cell, self.like.pbc
        )

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        reward = self.problem.reward
        assert isinstance(reward, EnergyReward)
        batch = self.batch(atoms)
        if reward.has_forces:
            energy, forces, errors = reward.energy_forces(batch)
        else:
            (energy, errors), forces = reward.energy_errors(batch), np.zeros(batch.positions.shape)
        failed = bool(errors)
        forces[:, : self.problem.fixed] = 0.0
        self.results = {
            "energy": REFUSED if failed else float(energy[0]),
            "forces": np.zeros_like(atoms.positions) if failed else forces[0],
        }
