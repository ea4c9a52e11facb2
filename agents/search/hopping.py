"""Basin hopping and minima hopping of ASE, as they are, under the arena's count."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ase.optimize
import numpy as np
from ase.constraints import FixAtoms
from ase.optimize.basin import BasinHopping as AseBasinHopping
from ase.optimize.minimahopping import MinimaHopping as AseMinimaHopping

from megen_gym.agents.search.common import (
    CountedCalculator,
    hop_energy,
    hop_length,
    require_forces,
    require_moving,
    require_positive,
    starting_structure,
    told,
)
from megen_gym.arena.problem import Problem
from megen_gym.envs.vector import StructureVectorEnv
from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray

OPTIMIZERS = ("FIRE", "BFGS", "LBFGS")
ENDLESS = 10**9


class BasinHopping:
    """ASE's basin hopping: a random displacement of all atoms, a relaxation, a Metropolis choice (Wales and Doye,
    J. Phys. Chem. A 101, 5111 (1997)).

    It begins with a random valid structure of the environment. Where the energy has no forces (``dart`` is piecewise
    constant) nothing is relaxed, and what is left is Monte Carlo.

    Args:
        env: Whose task and reward are searched.
        seed: Not used: the problem has one.
        temperature: eV, kT of the choice; by default 0.2 of the energy per atom of the first structure, 0.05 without
            forces.
        step: Å, largest displacement along each axis; by default 0.36 of the nearest-neighbour distance, 0.12 without
            forces.
        optimizer: Of ``ase.optimize``: FIRE, BFGS or LBFGS.

    Raises:
        InputError: for an environment without positions to find or without an energy, or an unknown optimizer.
    """

    def __init__(
        self,
        env: StructureVectorEnv,
        seed: int = 0,
        temperature: float | None = None,
        step: float | None = None,
        optimizer: str = "FIRE",
    ) -> None:
        require_moving(env, "basin_hopping")
        if optimizer not in OPTIMIZERS:
            raise InputError(f"unknown optimizer {optimizer!r}; {nearest(optimizer, OPTIMIZERS)}")
        require_positive(temperature=temperature, step=step)
        self.temperature, self.step, self.optimizer = temperature, step, optimizer

    def search(self, problem: Problem) -> None:
        """Hop until the budget is spent."""
        np.random.seed(problem.seed)  # noqa: NPY002  (what ASE draws from)
        start = starting_structure(problem, least=2)
        atoms = start.to_atoms()[0]
        atoms.set_constraint(FixAtoms(range(problem.fixed)))  # type: ignore[no-untyped-call]
        calculator = atoms.calc = CountedCalculator(problem, start)
        offers = calculator.batch

        class Hopping(AseBasinHopping):  # type: ignore[misc]
            """Hands in every minimum."""

            def get_energy(self, positions: FloatArray) -> float:
                """eV of the nearest minimum."""
                new = bool(np.any(self.positions != positions))
                energy = float(super().get_energy(positions))  # type: ignore[no-untyped-call]
                if new:
                    problem.offer(offers(atoms), told(energy), minimum=problem.relaxes)
                return energy

        silent: Any = None
        hops = Hopping(
            atoms, optimizer=getattr(ase.optimize, self.optimizer), fmax=problem.fmax,
            dr=hop_length(start.positions[0], self.step, problem.relaxes), logfile=silent, trajectory=silent,
            optimizer_logfile=silent, local_minima_trajectory=silent, adjust_cm=not problem.fixed,
        )  # fmt: skip
        hops.kT = hop_energy(hops.Emin, len(atoms), self.temperature, problem.relaxes)
        hops.run(ENDLESS)  # type: ignore[no-untyped-call]


class MinimaHopping:
    """ASE's minima hopping: short molecular dynamics out of a minimum, a relaxation, feedback on the temperature
    (Goedecker, J. Chem. Phys. 120, 9911 (2004)).

    Args:
        env: Whose task and reward are searched.
        seed: Not used: the problem has one.
        temperature: K, of the first molecular dynamics; by default 0.2 of the energy per atom of the first structure.
        timestep: fs; by default the square root of the lightest atom's mass in u.

    Raises:
        InputError: as :class:`BasinHopping`, and for an energy without forces.
    """

    def __init__(
        self,
        env: StructureVectorEnv,
        seed: int = 0,
        temperature: float | None = None,
        timestep: float | None = None,
    ) -> None:
        require_moving(env, "minima_hopping")
        require_forces(env, "minima_hopping", "leave it out")
        require_positive(temperature=temperature, timestep=timestep)
        self.temperature, self.timestep = temperature, timestep

    def search(self, problem: Problem) -> None:
        """Hop until the budget is spent."""
        from ase.units import kB

        start = starting_structure(problem, least=2)
        atoms = start.to_atoms()[0]
        atoms.set_constraint(FixAtoms(range(problem.fixed)))  # type: ignore[no-untyped-call]
        calculator = atoms.calc = CountedCalculator(problem, start)
        energy = float(atoms.get_potential_energy())  # type: ignore[no-untyped-call]

        class Hopping(AseMinimaHopping):  # type: ignore[misc]
            """Hands in every minimum."""

            def _optimize(self) -> None:
                super()._optimize()  # type: ignore[no-untyped-call]
                value = float(atoms.get_potential_energy())  # type: ignore[no-untyped-call]
                problem.offer(calculator.batch(atoms), told(value), minimum=True)

        with _scratch():
            Hopping(  # type: ignore[no-untyped-call]
                atoms,
                T0=self.temperature or hop_energy(energy, len(atoms), None) / kB,
                timestep=self.timestep or float(np.sqrt(atoms.get_masses().min())),
                fmax=problem.fmax,
                rng=np.random.default_rng(problem.seed),
            )()


@contextmanager
def _scratch() -> Iterator[None]:
    """A folder for the files that a search leaves, removed at the end."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="megen-search-") as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
