"""Energies of generated structures beside those of the data, gated by distances.

Potentials without a short-range wall (EMT) bind overlapping atoms: a collapsed generator "relaxes" to -33 eV/atom. What
has distances below the limit is therefore never counted as low in energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from megen_gym.analysis.ensemble import Reference
from megen_gym.analysis.journal import Record
from megen_gym.analysis.metrics import Mean, Median, Metric, Wasserstein
from megen_gym.io import energy_of
from megen_gym.structure import BoolArray, FloatArray


@dataclass(frozen=True)
class Energies:
    """Energies of B structures.

    Attributes:
        before: (B,) eV/atom, as generated; NaN if unknown.
        after: (B,) eV/atom, relaxed; NaN if that failed.
        displacement: (B,) Å, root mean square over the atoms.
        valid: (B,) whether the *relaxed* distances reach the limit.
        failed: (B,) whether there is no relaxed structure.
        reference: (R,) eV/atom of the data; empty if they store none.
    """

    before: FloatArray
    after: FloatArray
    displacement: FloatArray
    valid: BoolArray
    failed: BoolArray
    reference: FloatArray

    @property
    def low(self) -> BoolArray:
        """(B,) valid and not above the highest energy of the data."""
        if not len(self.reference):
            return np.zeros(len(self.after), dtype=bool)
        return np.asarray(self.valid & (self.after <= self.reference.max()))


def reference_energies(structures: Sequence[Atoms]) -> FloatArray:
    """(R,) eV/atom as stored with the structures; empty if any stores none."""
    energies = np.array([energy_of(atoms) / max(len(atoms), 1) for atoms in structures])
    return energies if np.isfinite(energies).all() else np.zeros(0)


def relaxed_energies(records: Sequence[Record], reference: Reference, known: FloatArray) -> Energies:
    """Energies of relaxed structures; `known` (R,) eV/atom of the reference, may be empty."""
    failed = np.array([bool(record.error) for record in records])
    sizes = np.array([max(len(record.atoms), 1) for record in records])
    valid = np.zeros(len(records), dtype=bool)
    if not failed.all():
        kept = [record.atoms for record in records if not record.error]
        relaxed = reference.ensemble(kept, "the relaxed structures")
        valid[~failed] = relaxed.min_distances >= reference.valid_distance
    return Energies(
        np.array([record.before for record in records]) / sizes,
        np.where(failed, np.nan, np.array([record.energy for record in records]) / sizes),
        np.array([record.displacement for record in records]),
        valid,
        failed,
        known,
    )


def energy_metrics(energies: Energies) -> list[Metric]:
    """Median energies before and after, displacement, and the gated share of low energy."""
    data, good = energies.reference, energies.valid & ~energies.failed
    none = np.full(1, np.nan)
    known = data if len(data) else none
    metrics: list[Metric] = [
        Mean("relaxation failed", "%", energies.failed, np.zeros(1)),
        Mean("valid after relaxing", "%", energies.valid, np.ones(1)),
        Median("energy unrelaxed, median", "eV/atom", energies.before, known),
        Median("energy relaxed, median of valid", "eV/atom", np.where(good, energies.after, np.nan), known),
        Median("displacement, median of valid", "Å", np.where(good, energies.displacement, np.nan), none),
    ]
    if len(data):
        metrics.append(Mean("valid and energy below the data's highest", "%", energies.low, np.ones(1)))
        if good.any():
            metrics.append(Wasserstein("W1 energy of valid", "eV/atom", energies.after[good][:, None], data[:, None]))
    return metrics
