"""What a reward is: it sees structures before and after a placement and says how good the placement was.

An *energy reward* pays the energy that a placement releases, ``-(E(after) - E(before))`` in eV, so that the return of
an episode telescopes to the binding energy of its last structure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from megen_gym.errors import InputError
from megen_gym.structure import FloatArray, StructureBatch

KCAL_PER_MOL = 0.0433641153
"""1 kcal/mol in eV."""

Known = Mapping[str, FloatArray]


@dataclass
class Outcome:
    """What a reward says of a batch of placements.

    Attributes:
        value: (B,) reward.
        terms: Named parts of it, (B,) each; they appear in `info`.
        known: (B,) arrays about the structures *after* the placement, handed back to the reward at the next placement
            as what is known of the structures *before* it (NaN where nothing is known), so that no energy is computed
            twice.
        errors: Reason by row where the reward could not be computed; such an episode is truncated.
    """

    value: FloatArray
    terms: dict[str, FloatArray] = field(default_factory=dict)
    known: dict[str, FloatArray] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)


class Reward(ABC):
    """Judge of placements.

    Attributes:
        invalid: Reward of a move that the task refuses.
    """

    invalid: float = -1.0

    @abstractmethod
    def __call__(self, before: StructureBatch, after: StructureBatch, known: Known | None = None) -> Outcome:
        """Reward of each placement; the new atom is the last of `after`."""

    def __add__(self, other: Reward) -> Reward:
        """Both rewards, one beside the other."""
        if not isinstance(other, Reward):
            return NotImplemented
        from megen_gym.rewards.combine import SumReward

        return SumReward([self, other])

    def __radd__(self, other: object) -> Reward:
        """So that ``sum(rewards)``, which begins with 0, works."""
        return self if other == 0 else NotImplemented

    def __mul__(self, weight: float) -> Reward:
        """This reward with a weight."""
        if not isinstance(weight, int | float):
            return NotImplemented
        from megen_gym.rewards.combine import SumReward

        return SumReward([self], weights=[weight])

    __rmul__ = __mul__


class EnergyReward(Reward):
    """Pays the energy released, in eV. Subclasses give :meth:`energy`.

    Attributes:
        has_forces: Whether :meth:`energy_forces` is there, so that structures can be relaxed.
        unit: eV, in which its energies are usually told: thresholds are multiples of it.
    """

    has_forces: bool = False
    unit: float = 1.0

    @abstractmethod
    def energy(self, batch: StructureBatch) -> FloatArray:
        """(B,) eV; NaN where it cannot be computed. A structure without atoms has energy 0."""

    def energy_errors(self, batch: StructureBatch) -> tuple[FloatArray, dict[int, str]]:
        """:meth:`energy` with a reason for each row that has none."""
        energy = self.energy(batch)
        return energy, {int(row): "the energy is not a number" for row in np.flatnonzero(~np.isfinite(energy))}

    def energy_forces(self, batch: StructureBatch) -> tuple[FloatArray, FloatArray, dict[int, str]]:
        """(B,) eV, (B, N, 3) eV/Å, NaN where they cannot be computed, and the reason for each such row.

        Raises:
            InputError: where the energy has no forces.
        """
        raise InputError(
            f"{type(self).__name__} gives no forces, so nothing can be relaxed with it; use lennard_jones, soap_ridge "
            "or an ASE calculator"
        )

    def prepare(self, symbols: Sequence[str]) -> None:
        """Compute what energies of structures of these elements need beforehand, such as those of single atoms."""

    def known_minimum(self, batch: StructureBatch) -> FloatArray:
        """(B,) eV, the lowest energy known of each structure's composition; NaN where none is."""
        return np.full(len(batch), np.nan)

    def __call__(self, before: StructureBatch, after: StructureBatch, known: Known | None = None) -> Outcome:
        start = np.full(len(before), np.nan) if known is None else np.array(known["energy"])
        errors: dict[int, str] = {}
        unknown = np.flatnonzero(np.isnan(start))
        start[unknown[before.n_atoms[unknown] == 0]] = 0.0
        unknown = unknown[before.n_atoms[unknown] > 0]
        if len(unknown):
            start[unknown], failed = self.energy_errors(before[unknown])
            errors |= {int(unknown[row]): reason for row, reason in failed.items()}
        energy, failed = self.energy_errors(after)
        errors |= failed
        value = np.where(np.isfinite(energy - start), start - energy, 0.0)
        return Outcome(value, {"energy": energy}, {"energy": energy}, errors)


class WorthReward(Reward):
    """Pays what a structure becomes worth by a placement, nothing being worth 0, so that the return of an episode is
    the worth of its last structure. Subclasses give :meth:`worth`.

    Attributes:
        name: How users call it.
        why: What is wrong with a structure whose worth cannot be computed.
    """

    name: str
    why: str = "its worth is not a number"

    @abstractmethod
    def worth(self, structures: StructureBatch) -> tuple[FloatArray, dict[str, FloatArray]]:
        """(B,) worth of structures of at least one atom, NaN where there is none, and terms (B,)."""

    def worth_errors(self, structures: StructureBatch) -> tuple[FloatArray, dict[str, FloatArray], dict[int, str]]:
        """:meth:`worth` with a reason for each row that has none."""
        worth, terms = self.worth(structures)
        return worth, terms, dict.fromkeys(np.flatnonzero(~np.isfinite(worth)).tolist(), self.why)

    def __call__(self, before: StructureBatch, after: StructureBatch, known: Known | None = None) -> Outcome:
        start = np.full(len(before), np.nan) if known is None else np.array(known["worth"])
        unknown = np.flatnonzero(np.isnan(start))
        start[unknown], _, failed = self._of_all(before[unknown])
        errors = {int(unknown[row]): why for row, why in failed.items()}
        worth, terms, failed = self._of_all(after)
        value = np.where(np.isfinite(worth - start), worth - start, 0.0)
        terms = {"worth": worth, **terms}
        return Outcome(value, terms, dict(terms), errors | failed)

    def _of_all(self, structures: StructureBatch) -> tuple[FloatArray, dict[str, FloatArray], dict[int, str]]:
        """:meth:`worth_errors`, 0 for nothing, as are the terms."""
        there = np.flatnonzero(structures.n_atoms > 0)
        worth: FloatArray = np.zeros(len(structures))
        worth[there], some, failed = self.worth_errors(structures[there])
        terms: dict[str, FloatArray] = {name: np.zeros(len(structures)) for name in some}
        for name, value in some.items():
            terms[name][there] = value
        return worth, terms, {int(there[row]): why for row, why in failed.items()}
