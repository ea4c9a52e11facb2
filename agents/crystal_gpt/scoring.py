"""What crystals that were drawn are worth in tuning: their reward, a floor for those without one, and variety."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from megen_gym.agents.crystal_gpt.tune_settings import Settings
from megen_gym.crystals import CrystalBatch
from megen_gym.errors import InputError
from megen_gym.structure import BoolArray, FloatArray

EDGE_BIN = 0.05
"""Of the logarithm of an edge: crystals are told apart where an edge differs by about 5 %."""

ANGLE_BIN = 3.0
"""Degrees."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Of B crystals.

    Attributes:
        reward: (B,) as the reward gives it, NaN where there is none.
        apart: (B,) whether no atoms overlap.
        value: (B,) what is made large: the reward, or its negative, clipped, and the floor where there is none.
        penalty: (B,) what is subtracted for crystals that were drawn before.
        unique: Share of different crystals in the batch.
    """

    reward: FloatArray
    apart: BoolArray
    value: FloatArray
    penalty: FloatArray
    unique: float


class Scorer:
    """Judge of batches, with a memory of those before.

    Args:
        judge: From crystals to (B,) rewards, NaN where there is none; None if there is no reward at all.
        settings: Resolved.
    """

    def __init__(self, judge: Callable[[CrystalBatch], FloatArray] | None, settings: Settings) -> None:
        self.judge, self.settings = judge, settings
        self.floor = settings.floor
        self.evaluations = 0
        self.memory: deque[list[str]] = deque(maxlen=settings.memory)

    def __call__(self, crystals: CrystalBatch) -> Scores:
        """Judge a batch, and remember it.

        Raises:
            InputError: if the first batch has no crystal with a reward, so that nothing can be learnt.
        """
        settings, size = self.settings, len(crystals)
        apart = crystals.apart(settings.min_distance) if settings.min_distance > 0 else np.ones(size, dtype=bool)
        reward: FloatArray = np.full(size, np.nan)
        value: FloatArray = np.zeros(size)
        if self.judge is not None:
            if apart.any():
                reward[apart] = self.judge(crystals[apart])
            self.evaluations += int(apart.sum())
            reward[~np.isfinite(reward)] = np.nan
            value = self._valued(reward, int((~apart).sum()))
        keys = identities(crystals)
        counts = Counter(keys) + Counter(key for batch in self.memory for key in batch)
        penalty = settings.diversity * np.log([counts[key] for key in keys])
        self.memory.append(keys)
        return Scores(reward, apart, value, penalty, len(set(keys)) / size)

    def _valued(self, reward: FloatArray, overlapping: int) -> FloatArray:
        settings = self.settings
        value = -reward if settings.minimise else reward
        if settings.clip_reward is not None:
            value = np.clip(value, -settings.clip_reward, settings.clip_reward)
        if self.floor is None:
            known = value[np.isfinite(value)]
            if not len(known):
                raise InputError(
                    f"none of the first {len(reward)} crystals has a reward ({overlapping} have atoms nearer than "
                    f"{settings.min_distance} Å); check the reward, lower min_distance, or give a larger batchsize"
                )
            self.floor = default_floor(known)
        return np.asarray(np.maximum(np.where(np.isfinite(value), value, -np.inf), self.floor))

    def state(self) -> dict[str, Any]:
        """What judging goes on from, as JSON."""
        return {"floor": self.floor, "evaluations": self.evaluations, "memory": list(self.memory)}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.floor, self.evaluations = state["floor"], state["evaluations"]
        self.memory = deque(state["memory"], maxlen=self.settings.memory)


def default_floor(values: FloatArray) -> float:
    """One spread below the lowest of the values (n,), outliers aside; 1 below them if all are the same.

    The spread is the interquartile range, or the standard deviation where that is 0; outliers are more than five
    interquartile ranges below the lower quartile.

    >>> default_floor(np.array([0.0, 1.0, 2.0, 3.0, 4.0])), default_floor(np.ones(5))
    (-2.0, 0.0)
    """
    low, high = np.quantile(values, [0.25, 0.75])
    spread = float(high - low)
    lowest = max(float(values.min()), float(low) - 5 * spread) if spread > 0 else float(values.min())
    return lowest - (spread or float(values.std()) or 1.0)


def identities(crystals: CrystalBatch) -> list[str]:
    """(B,) the same text for crystals with the same space group, letters, composition and, within bins, lattice."""
    edges = np.rint(np.log(crystals.lattice[:, :3]) / EDGE_BIN).astype(np.int64)
    angles = np.rint(crystals.lattice[:, 3:] / ANGLE_BIN).astype(np.int64)
    multiplicity, counts = crystals.multiplicity, crystals.n_sites
    keys = []
    for row, count in enumerate(counts.tolist()):
        atoms: Counter[int] = Counter()
        for element, many in zip(crystals.elements[row, :count], multiplicity[row, :count], strict=True):
            atoms[int(element)] += int(many)
        letters = sorted(crystals.letters[row, :count].tolist())
        lattice = [*edges[row].tolist(), *angles[row].tolist()]
        keys.append(f"{crystals.group[row]} {letters} {sorted(atoms.items())} {lattice}")
    return keys
