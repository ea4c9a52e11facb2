"""Rewards of whole crystals: any reward of the library, paid for the step from nothing to the crystal."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

from megen_gym.crystals import CrystalBatch
from megen_gym.errors import InputError
from megen_gym.rewards import make_reward
from megen_gym.structure import FloatArray, StructureBatch


def rewarded(name: str, arguments: str | None = None, per_atom: bool = True) -> Callable[[CrystalBatch], FloatArray]:
    """A function from B crystals to (B,) rewards; NaN where one cannot be computed.

    Args:
        name: As for :func:`megen_gym.rewards.make_reward`.
        arguments: Its arguments as a JSON object.
        per_atom: Divide rewards that are energies by the number of atoms.

    Raises:
        InputError: for an unknown reward, or arguments that are no JSON object.
    """
    from megen_gym.rewards.base import EnergyReward

    try:
        options = json.loads(arguments) if arguments else {}
        if not isinstance(options, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise InputError(
            f"reward_kwargs {arguments!r} is no JSON object ({error}); write it as in '{{\"target\": 5}}'"
        ) from None
    reward = make_reward(name, **options)
    divide = per_atom and isinstance(reward, EnergyReward)

    def judge(crystals: CrystalBatch) -> FloatArray:
        after = crystals.structures()
        assert after.cell is not None
        before = StructureBatch.trusted(
            np.zeros_like(after.positions), np.zeros_like(after.species), after.symbols, after.cell, after.pbc
        )
        outcome = reward(before, after)
        value = np.array(outcome.value, dtype=float)
        value[list(outcome.errors)] = np.nan
        return value / np.maximum(crystals.n_atoms, 1) if divide else value

    return judge
