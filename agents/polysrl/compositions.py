"""Formulas as arrays: the elements of each composition and their amounts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from megen_gym.errors import InputError
from megen_gym.formulas import amounts_of
from megen_gym.structure import FloatArray, IntArray

DIGITS = 9
"""To which fractions are compared."""


@dataclass(frozen=True, eq=False)
class Compositions:
    """B compositions of up to E elements.

    Attributes:
        numbers: (B, E) atomic numbers, ascending; 0 is padding, at the end.
        amounts: (B, E) atoms of each element in the formula as given; 0 for padding.
    """

    numbers: IntArray
    amounts: FloatArray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: IntArray) -> Compositions:
        return Compositions(self.numbers[rows], self.amounts[rows])

    @property
    def fractions(self) -> FloatArray:
        """(B, E) shares of the atoms: the same for BaTiO3 and Ba2Ti2O6."""
        return np.asarray(self.amounts / self.amounts.sum(1, keepdims=True))

    @classmethod
    def parse(cls, formulas: Sequence[str]) -> Compositions:
        """From formulas such as ``BaTiO3`` or ``Ag0.5Ge1Pb1.75S4``.

        Raises:
            InputError: for a formula that cannot be read, or no formula at all.
        """
        if isinstance(formulas, str):
            raise InputError(f"formulas are the text {formulas!r}; give a list, such as [{formulas!r}]")
        found = [amounts_of(formula) for formula in formulas]
        if not found:
            raise InputError("no formulas were given; give at least one, e.g. BaTiO3")
        widest = max(map(len, found))
        numbers, amounts = np.zeros((2, len(found), widest))
        for row, each in enumerate(found):
            ordered = sorted((atomic_numbers[symbol], amount) for symbol, amount in each.items())
            numbers[row, : len(each)], amounts[row, : len(each)] = zip(*ordered, strict=True)
        return cls(numbers.astype(np.int64), amounts)

    @classmethod
    def of_counts(cls, counts: FloatArray | IntArray, numbers: IntArray) -> Compositions:
        """From (B, S) amounts of S elements with ascending or any atomic `numbers` (S,), as bags are.

        Raises:
            InputError: for a row without atoms.
        """
        counts = np.asarray(counts, dtype=np.float64)
        order = np.argsort(numbers, kind="stable")
        counts, sorted_numbers = counts[:, order], np.asarray(numbers)[order]
        if not (counts.sum(1) > 0).all() or (counts < 0).any():
            row = int(np.argmin(counts.sum(1) > 0)) if (counts.sum(1) <= 0).any() else int((counts < 0).any(1).argmax())
            raise InputError(f"composition {row} has no atoms, or a negative number of them; give positive amounts")
        there = counts > 0
        place = np.argsort(~there, axis=1, kind="stable")[:, : int(there.sum(1).max())]
        kept = np.take_along_axis(there, place, 1)
        found = np.where(kept, sorted_numbers[place], 0)
        return cls(found, np.where(kept, np.take_along_axis(counts, place, 1), 0.0))

    def unique(self) -> tuple[IntArray, IntArray]:
        """Rows of the different compositions, in order of appearance, and (B,) index of each row among them."""
        keys = np.concatenate([self.numbers, np.round(self.fractions, DIGITS)], 1)
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return np.sort(first), rank[inverse.reshape(-1)]

    def formulas(self) -> list[str]:
        """With the amounts as they are, elements by atomic number."""
        return [
            "".join(f"{chemical_symbols[z]}{amount:g}" for z, amount in zip(*row, strict=True) if z)
            for row in zip(self.numbers, self.amounts, strict=True)
        ]
