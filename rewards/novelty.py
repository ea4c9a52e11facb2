"""Reward for structures unlike those seen before."""

from __future__ import annotations

from typing import Any

import numpy as np

from megen_gym.errors import InputError
from megen_gym.rewards.base import Known, Outcome, Reward
from megen_gym.rewards.penalties import placed
from megen_gym.structure import FloatArray, StructureBatch


class NoveltyReward(Reward):
    """Distance of a structure to the nearest one of the same formula that was rated before, by averaged SOAP.

    value = min(1, d / scale), d = min_k |p/|p| - q_k/|q_k||, where p is the averaged SOAP power spectrum of a structure
    (dscribe, average="inner"; Bartok, Kondor, Csanyi, Phys. Rev. B 87, 184115) and q_k are those in memory; 1 when the
    memory holds nothing of that formula. Every rated structure farther than `tolerance` from the memory is remembered;
    a full memory forgets its oldest. The rows of a batch are rated in order, so that a batch gives what its rows one
    after the other would give, and two twins in one batch do not both count as new.

    **This reward is not stationary**: it depends on all that was rated before by the same object, falls as an agent
    repeats itself, and is not restored when a run is resumed or an environment is made anew (a pickled copy keeps it).
    Each environment process has a memory of its own. Mix it in with a small weight, judge results by another reward,
    and use one object for training and another for evaluation.

    Args:
        r_cut: Å, radius of the atomic environments.
        n_max: Radial basis functions.
        l_max: Highest angular momentum.
        sigma: Å, width of the Gaussians.
        scale: Distance that earns the full reward 1.
        capacity: Structures remembered per formula.
        tolerance: Structures closer than this to one in memory are not remembered again.
        size: Rate only structures of this many atoms (the final ones); None rates every placement.
        invalid: Reward of a move that the task refuses.

    Raises:
        InputError: for a value out of range.
    """

    def __init__(
        self,
        r_cut: float = 6.0,
        n_max: int = 6,
        l_max: int = 4,
        sigma: float = 0.5,
        scale: float = 0.1,
        capacity: int = 1000,
        tolerance: float = 1e-3,
        size: int | None = None,
        invalid: float = -1.0,
    ) -> None:
        if not (r_cut > 1 and 1 <= n_max <= 20 and 0 <= l_max <= 20 and sigma > 0):
            raise InputError(
                f"SOAP with r_cut {r_cut}, n_max {n_max}, l_max {l_max}, sigma {sigma} cannot be computed; "
                "expected r_cut > 1 Å, n_max 1..20, l_max 0..20, sigma > 0 Å"
            )
        if not (scale > 0 and capacity >= 1 and tolerance >= 0 and (size is None or size >= 1)):
            raise InputError(
                f"scale {scale}, capacity {capacity}, tolerance {tolerance}, size {size} cannot be used; "
                "expected scale > 0, capacity >= 1, tolerance >= 0 and size >= 1 or null"
            )
        self.r_cut, self.n_max, self.l_max, self.sigma = r_cut, n_max, l_max, sigma
        self.scale, self.capacity, self.tolerance, self.size = scale, capacity, tolerance, size
        self.invalid = invalid
        self._memory: dict[tuple[str, ...], FloatArray] = {}
        self._seen: dict[tuple[str, ...], int] = {}
        self._soap: tuple[tuple[Any, ...], Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_soap": None}

    def reset(self) -> None:
        """Forget everything."""
        self._memory, self._seen = {}, {}

    def __call__(self, before: StructureBatch, after: StructureBatch, known: Known | None = None) -> Outcome:
        rated = placed(before, after) & (after.n_atoms > 0)
        if self.size is not None:
            rated &= after.n_atoms == self.size
        finite = np.isfinite(after.positions).all(axis=(1, 2))  # dscribe's C++ core dies of NaN
        errors = {int(row): "the positions are NaN or infinite" for row in np.flatnonzero(rated & ~finite)}
        rows = np.flatnonzero(rated & finite)
        value = np.zeros(len(after))
        if len(rows):
            descriptors = self.descriptors(after[rows])
            elements = np.array(after.symbols)
            for row, vector in zip(rows, descriptors, strict=True):
                names = np.sort(elements[after.species[row][after.mask[row]]])
                value[row] = self._rate(tuple(names.tolist()), vector)
        return Outcome(value, {"novelty": value.copy()}, errors=errors)

    def descriptors(self, batch: StructureBatch) -> FloatArray:
        """(B, D) normalised averaged SOAP vectors of structures with finite positions and at least one atom."""
        kind = (batch.symbols, any(batch.pbc))
        if self._soap is None or self._soap[0] != kind:
            from dscribe.descriptors import SOAP

            soap = SOAP(
                r_cut=self.r_cut, n_max=self.n_max, l_max=self.l_max, sigma=self.sigma,
                species=list(batch.symbols[1:]), periodic=any(batch.pbc), average="inner",
            )  # fmt: skip
            self._soap = kind, soap
        vectors = np.atleast_2d(self._soap[1].create(batch.to_atoms()))
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))

    def _rate(self, formula: tuple[str, ...], vector: FloatArray) -> float:
        seen = self._seen.get(formula, 0)
        memory = self._memory.get(formula)
        if memory is None:
            memory = self._memory[formula] = np.zeros((min(16, self.capacity), len(vector)))
        kept = memory[: min(seen, self.capacity)]
        distance = float(np.sqrt(((kept - vector) ** 2).sum(axis=1)).min()) if len(kept) else np.inf
        if distance > self.tolerance:
            slot = seen % self.capacity
            if slot == len(memory):
                grown = np.zeros((min(2 * slot, self.capacity), len(vector)))
                grown[:slot] = memory
                self._memory[formula] = memory = grown
            memory[slot] = vector
            self._seen[formula] = seen + 1
        return min(1.0, distance / self.scale)
