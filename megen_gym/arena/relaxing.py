"""Relaxation with a counted energy: SciPy's L-BFGS, each evaluation of energy and forces being one of the budget."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from megen_gym.rewards.base import EnergyReward
from megen_gym.structure import FloatArray, StructureBatch

HISTORY = 20
"""Steps that L-BFGS remembers."""


class NoEnergy(Exception):
    """The calculator failed on a structure."""


def relax_row(
    reward: EnergyReward, batch: StructureBatch, fmax: float, limit: int, fixed: int = 0
) -> tuple[StructureBatch, float, bool]:
    """The nearest minimum of one structure, its cell being kept.

    Args:
        reward: An energy with forces.
        batch: One structure.
        fmax: eV/Å; largest component of a force at the end.
        limit: Evaluations at most.
        fixed: Atoms that stand still, the first ones.

    Returns:
        The relaxed structure, its energy (eV; NaN if the calculator failed), and whether `fmax` was reached.
    """
    from scipy.optimize import minimize

    count = int(batch.n_atoms[0])
    if count < 2:
        return batch, float(reward.energy_errors(batch)[0][0]), True
    species, cell = batch.species[:, :count], batch.cell

    def moved(x: FloatArray) -> StructureBatch:
        return StructureBatch.trusted(x.reshape(1, count, 3), species, batch.symbols, cell, batch.pbc)

    def energy_gradient(x: FloatArray) -> tuple[float, NDArray[np.float64]]:
        energy, forces, errors = reward.energy_forces(moved(x))
        if errors:
            raise NoEnergy(errors[0])
        forces[0, :fixed] = 0.0
        return float(energy[0]), -forces[0].ravel()

    try:
        done = minimize(
            energy_gradient, batch.positions[0, :count].ravel(), jac=True, method="L-BFGS-B",
            options={"gtol": fmax, "maxfun": limit, "maxcor": HISTORY, "ftol": 0.0, "maxiter": limit},
        )  # fmt: skip
    except NoEnergy:
        return batch, float("nan"), False
    return moved(done.x), float(done.fun), bool(np.abs(done.jac).max() <= fmax)
