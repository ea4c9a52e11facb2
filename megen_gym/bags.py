"""Bags: which atoms an episode may place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.formula import Formula

from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray, IntArray


def parse_formula(formula: object, example: str = "Ga18 or SF6") -> dict[str, int]:
    """Atoms of each element, in the order of the formula.

    Raises:
        InputError: for a formula that cannot be read; `example` shows how to write it.

    >>> parse_formula("BaTiO3")
    {'Ba': 1, 'Ti': 1, 'O': 3}
    """
    try:
        return dict(Formula(formula).count())  # type: ignore[arg-type]
    except Exception as error:  # ase raises assertion, value and key errors alike
        raise InputError(f"formula {formula!r} cannot be read; write it like {example}") from error


def formula_counts(formula: str, symbols: Sequence[str]) -> IntArray:
    """(S,) atoms of each symbol in a chemical formula.

    Raises:
        InputError: for a formula that cannot be read, is empty, or names an element outside `symbols`.

    >>> formula_counts("Ga3Al", ("X", "Al", "Ga")).tolist()
    [0, 1, 3]
    """
    counts = parse_formula(formula)
    unknown = sorted(set(counts) - set(symbols[1:]))
    if unknown:
        names = ", ".join(unknown)
        hint = nearest(unknown[0], symbols[1:])
        raise InputError(f"unknown element {names} in formula {formula!r}; {hint}")
    if sum(counts.values()) < 1:
        raise InputError(f"formula {formula!r} holds no atoms; give at least one, e.g. Ga18")
    return np.array([counts.get(name, 0) for name in symbols], dtype=np.int64)


@dataclass(frozen=True)
class Bags:
    """One bag for every episode, several cycled, or random ones within a size range.

    Attributes:
        counts: (M, S) atoms of each symbol; episode e takes bag e mod M.
        size_range: Smallest and largest size of a random bag, whose elements are drawn in the proportions of the bag
            in turn (MolGym's stochastic bags); None for the bags as they are.
    """

    counts: IntArray
    size_range: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.size_range is not None and not 1 <= self.size_range[0] <= self.size_range[1]:
            raise InputError(
                f"size_range {self.size_range[0]}..{self.size_range[1]} is empty; give 1 <= smallest <= largest"
            )

    @classmethod
    def parse(
        cls, formulas: str | Sequence[str], symbols: Sequence[str], size_range: Sequence[int] | None = None
    ) -> Bags:
        """From one formula, a list of formulas, or a comma-separated list."""
        names = formulas.split(",") if isinstance(formulas, str) else list(formulas)
        if not names:
            raise InputError("no formula was given; give at least one, e.g. Ga18")
        low_high = None if size_range is None else (int(size_range[0]), int(size_range[1]))
        return cls(np.stack([formula_counts(name.strip(), symbols) for name in names]), low_high)

    @property
    def largest(self) -> int:
        """Atoms in the largest bag."""
        return int(self.counts.sum(1).max()) if self.size_range is None else self.size_range[1]

    @property
    def draws(self) -> int:
        """Uniform numbers that :meth:`draw` takes per episode."""
        return 0 if self.size_range is None else 1 + self.size_range[1]

    def draw(self, uniform: FloatArray, episode: IntArray) -> IntArray:
        """(B, S) bags for the given episodes.

        Args:
            uniform: (B, draws) numbers in [0, 1).
            episode: (B,) number of the episode within its environment.
        """
        counts = self.counts[episode % len(self.counts)]
        if self.size_range is None:
            return counts.copy()
        low, high = self.size_range
        size = low + (uniform[:, 0] * (high - low + 1)).astype(np.int64)
        share = np.cumsum(counts, 1) / counts.sum(1, keepdims=True)
        element = (uniform[:, 1:, None] >= share[:, None]).sum(-1)
        chosen = (np.arange(high) < size[:, None])[..., None] & (element[..., None] == np.arange(counts.shape[1]))
        return np.asarray(chosen.sum(1))
