"""Sampled crystals relaxed by a calculator, and described by their symmetry again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from megen_gym.agents.crystal_gpt.generate import Samples
from megen_gym.analysis.crystal_relax import FMAX, primitive_cells, relax_crystals
from megen_gym.crystals import CrystalBatch, describe
from megen_gym.errors import InputError
from megen_gym.structure import FloatArray


def relaxed(
    samples: Samples,
    calculator: str,
    kwargs: Mapping[str, Any] | None = None,
    *,
    steps: int = 200,
    keep_symmetry: bool = True,
    progress: bool = True,
) -> tuple[Samples, dict[str, FloatArray]]:
    """Relax cells and positions of B samples.

    A crystal that the calculator fails on, or whose symmetry cannot be made out afterwards, stays as it was drawn; the
    log says how many.

    Args:
        samples: Crystals; their likelihood remains that of what was drawn.
        calculator: As of :func:`~megen_gym.analysis.crystal_relax.relax_crystals`.
        kwargs: Its arguments.
        steps: Most steps; 0 for energies alone.
        keep_symmetry: Hold the space group.
        progress: Show a progress bar.

    Returns:
        The samples in the same order; (B,) numbers ``energy_per_atom`` (eV, of the crystal as it is in the samples; NaN
        where the calculator gave none), ``energy`` (eV, of the conventional cell) and ``relaxed`` (1, or 0 for those
        that stay as drawn).

    Raises:
        InputError: for a calculator that cannot be made, or steps below 0.
    """
    given = primitive_cells(samples.crystals.to_atoms())
    results = relax_crystals(
        given, calculator, kwargs, steps=steps, keep_symmetry=keep_symmetry, progress=progress, label="relaxing"
    )
    rows: list[CrystalBatch] = []
    energies, done, failed, lost = np.full(len(given), np.nan), np.zeros(len(given)), [], []
    for row, one in enumerate(results):
        rows.append(samples.crystals[row : row + 1])
        energies[row] = one.before / len(one.atoms)
        if one.error:
            failed.append(one.error)
            continue
        try:
            if steps:
                rows[-1] = describe(one.atoms)
        except InputError as error:
            lost.append(str(error))
            continue
        energies[row], done[row] = one.energy / len(one.atoms), float(steps > 0)
    crystals = CrystalBatch.join(rows)
    log = logging.getLogger("megen_gym")
    for reason, why in (("as the calculator failed", failed), ("as they lost their symmetry", lost)):
        if why:
            log.info(f"{len(why)} of {len(given)} crystals stay as they were drawn, {reason}: {why[0]}")
    if late := sum(not one.converged and not one.error for one in results):
        log.info(f"{late} of {len(given)} crystals are not below {FMAX} eV/Å after {steps} steps")
    extra = {"energy_per_atom": energies, "energy": energies * crystals.n_atoms, "relaxed": done}
    return replace(samples, crystals=crystals), extra
