"""The budget: every energy (with or without forces) is counted where it is computed, for every entrant alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from megen_gym.rewards.base import EnergyReward, Known, Outcome, Reward
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch

T = TypeVar("T")


class Spent(BaseException):
    """The budget does not allow what was asked for; no error, so that nobody catches it by accident."""


@dataclass
class Meter:
    """How much of a budget is spent, and when the known minimum was first seen.

    Attributes:
        budget: Evaluations allowed.
        goal: (S,) atoms of each element in a finished structure, where all episodes end alike; hits are only looked
            for among structures of that composition.
        target: eV, an energy at or below this is a hit; NaN where nothing is known.
        used: Evaluations so far.
        hit: Evaluations at the first hit, that one included; None before.
        told: Hears how many evaluations were made, each time.
    """

    budget: int
    goal: IntArray | None = None
    target: float = float("nan")
    used: int = 0
    hit: int | None = None
    told: Callable[[int], None] | None = None

    @property
    def left(self) -> int:
        """Evaluations that remain."""
        return max(self.budget - self.used, 0)

    def reserve(self, count: int) -> None:
        """Ask before `count` evaluations.

        Raises:
            Spent: if so many do not remain.
        """
        if count > self.left:
            raise Spent

    def charge(self, count: int) -> None:
        """Count what has been computed."""
        self.used += count
        if self.told is not None:
            self.told(self.used)

    def look(self, batch: StructureBatch, energy: FloatArray, before: int) -> None:
        """Whether one of the energies (B,) hits; `before` it, so many evaluations were made."""
        if self.hit is not None or not any(value <= self.target for value in energy.tolist()):
            return
        hits = np.flatnonzero((energy <= self.target) & self.complete(batch))
        if len(hits):
            self.hit = before + min(int(hits[0]) + 1, max(self.used - before, 1))

    def complete(self, batch: StructureBatch) -> BoolArray:
        """(B,) whether the structures have the composition of the goal."""
        if self.goal is None:
            return np.zeros(len(batch), dtype=bool)
        counts = (batch.species[..., None] == np.arange(1, len(batch.symbols))).sum(1)
        return np.asarray((counts == self.goal[1:]).all(1))


class _Count:
    """Counts the judgements of one reward: one for each structure, or what its calculators count themselves
    (relaxations within an energy) if that is more."""

    def __init__(self, meter: Meter, reward: Reward) -> None:
        self.meter = meter
        parts = [part for _, _, part in reward.parts] if hasattr(reward, "parts") else [reward]
        self.calculators: list[Any] = [part for part in parts if hasattr(part, "evaluations")]

    def __call__(self, judge: Callable[[], T], rows: int) -> T:
        """What `judge` gives for so many rows.

        Raises:
            Spent: if the budget does not allow them.
        """
        self.meter.reserve(rows)
        before = sum(part.evaluations for part in self.calculators)
        try:
            return judge()
        finally:
            self.meter.charge(max(rows, sum(part.evaluations for part in self.calculators) - before))


class MeteredReward(Reward):
    """A reward whose judgements are counted, one for each structure after a placement.

    Args:
        inner: The reward.
        meter: Where it is counted.
    """

    def __init__(self, inner: Reward, meter: Meter) -> None:
        self.inner, self.meter, self.invalid = inner, meter, inner.invalid
        self._count = _Count(meter, inner)

    def __call__(self, before: StructureBatch, after: StructureBatch, known: Known | None = None) -> Outcome:
        return self._count(lambda: self.inner(before, after, known), len(after))


class MeteredEnergy(EnergyReward):
    """An energy whose evaluations are counted; structures without atoms cost nothing.

    Args:
        inner: The energy.
        meter: Where it is counted.
    """

    def __init__(self, inner: EnergyReward, meter: Meter) -> None:
        self.inner, self.meter, self.invalid = inner, meter, inner.invalid
        self.has_forces = inner.has_forces
        self._count = _Count(meter, inner)

    def energy(self, batch: StructureBatch) -> FloatArray:
        return self.energy_errors(batch)[0]

    def energy_errors(self, batch: StructureBatch) -> tuple[FloatArray, dict[int, str]]:
        used = self.meter.used
        energy, errors = self._count(lambda: self.inner.energy_errors(batch), _with_atoms(batch))
        self.meter.look(batch, energy, used)
        return energy, errors

    def energy_forces(self, batch: StructureBatch) -> tuple[FloatArray, FloatArray, dict[int, str]]:
        used = self.meter.used
        energy, forces, errors = self._count(lambda: self.inner.energy_forces(batch), _with_atoms(batch))
        self.meter.look(batch, energy, used)
        return energy, forces, errors

    def known_minimum(self, batch: StructureBatch) -> FloatArray:
        return self.inner.known_minimum(batch)


def _with_atoms(batch: StructureBatch) -> int:
    """Structures that have an atom; their first place is taken."""
    return int(np.count_nonzero(batch.species[:, :1]))


def metered(reward: Reward, meter: Meter) -> MeteredReward | MeteredEnergy:
    """The reward with a meter."""
    return MeteredEnergy(reward, meter) if isinstance(reward, EnergyReward) else MeteredReward(reward, meter)
