"""Basin hopping of SciPy, with L-BFGS."""

from __future__ import annotations

import numpy as np

from megen_gym.agents.search.common import (
    REFUSED,
    hop_energy,
    hop_length,
    require_forces,
    require_moving,
    require_positive,
    starting_structure,
    told,
)
from megen_gym.arena.problem import Problem
from megen_gym.arena.relaxing import HISTORY
from megen_gym.envs.vector import StructureVectorEnv
from megen_gym.rewards.base import EnergyReward
from megen_gym.structure import FloatArray, StructureBatch

ENDLESS = 10**9


class ScipyHopping:
    """``scipy.optimize.basinhopping`` with L-BFGS-B and its adaptive step: the baseline that the published figures for
    Lennard-Jones clusters are measured against.

    Args:
        env: Whose task and reward are searched.
        seed: Not used: the problem has one.
        temperature: eV, kT; by default 0.2 of the energy per atom of the first structure.
        step: Å, largest displacement along each axis at first; by default 0.36 of the nearest-neighbour distance.

    Raises:
        InputError: for an environment without positions to find, or an energy without forces.
    """

    def __init__(
        self, env: StructureVectorEnv, seed: int = 0, temperature: float | None = None, step: float | None = None
    ) -> None:
        require_moving(env, "scipy_basin_hopping")
        require_forces(env, "scipy_basin_hopping", "basin_hopping, which then is Monte Carlo")
        require_positive(temperature=temperature, step=step)
        self.temperature, self.step = temperature, step

    def search(self, problem: Problem) -> None:
        """Hop until the budget is spent."""
        from scipy.optimize import basinhopping

        start, reward = starting_structure(problem, least=2), problem.reward
        assert isinstance(reward, EnergyReward)
        count, fixed = start.positions.shape[1], start.positions[0, : problem.fixed]

        def batch(x: FloatArray) -> StructureBatch:
            positions = np.concatenate([fixed, x.reshape(-1, 3)])[None]
            return StructureBatch.trusted(positions, start.species, start.symbols, start.cell, start.pbc)

        def energy_gradient(x: FloatArray) -> tuple[float, FloatArray]:
            energy, forces, errors = reward.energy_forces(batch(x))
            return (REFUSED, np.zeros_like(x)) if errors else (float(energy[0]), -forces[0, len(fixed) :].ravel())

        def found(x: FloatArray, energy: float, accepted: bool) -> None:
            problem.offer(batch(x), told(energy), minimum=True)

        first = float(reward.energy_errors(start)[0][0])
        basinhopping(
            energy_gradient, start.positions[0, len(fixed) :].ravel(), niter=ENDLESS,
            T=hop_energy(first, count, self.temperature),
            stepsize=hop_length(start.positions[0], self.step), callback=found,
            rng=np.random.default_rng(problem.seed),
            minimizer_kwargs={
                "method": "L-BFGS-B",
                "jac": True,
                "options": {"gtol": problem.fmax, "maxcor": HISTORY, "ftol": 0.0},
            },
        )  # fmt: skip
