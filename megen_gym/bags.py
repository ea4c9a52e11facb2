"""Bags: which atoms an episode may place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers

from megen_gym.errors import InputError, nearest
from megen_gym.formulas import read_formula
from megen_gym.structure import FloatArray, IntArray


def parse_formula(formula: object, example: str = "Ga18 or SF6") -> dict[str, int]:
    """Atoms of each element, in the order of the formula.

    Raises:
        InputError: for a formula that cannot be read; `example` shows how to write it.

    >>> parse_formula("BaTiO3")
    {'Ba': 1, 'Ti': 1, 'O': 3}
    """
    message = f"formula {formula!r} cannot be read; write it like {example}"
    if not isinstance(formula, str):
        raise InputError(message)
    try:
        amounts = read_formula(formula)
    except InputError as error:
        raise InputError(message) from error
    if not all(amount.is_integer() for amount in amounts.values()):
        raise InputError(message)
    return {symbol: int(amount) for symbol, amount in amounts.items()}


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


TRIES = 16
"""Random bags that are drawn for one with an even number of electrons; of the first 16, one in 65,536 has none."""


@dataclass(frozen=True)
class Bags:
    """One bag for every episode, several cycled, or random ones within a size range.

    Attributes:
        counts: (M, S) atoms of each symbol; episode e takes bag e mod M.
        size_range: Smallest and largest size of a random bag, whose elements are drawn in the proportions of the bag
            in turn (MolGym's stochastic bags); None for the bags as they are.
        electrons: (S,) of each symbol where random bags must have an even number of them (MolGym's rule of valences),
            else None.
        free: As many of each element as the canvas holds: the composition is the policy's choice, and a full canvas
            ends the episode.
    """

    counts: IntArray
    size_range: tuple[int, int] | None = None
    electrons: IntArray | None = None
    free: bool = False

    def __post_init__(self) -> None:
        if self.size_range is not None and not 1 <= self.size_range[0] <= self.size_range[1]:
            raise InputError(
                f"size_range {self.size_range[0]}..{self.size_range[1]} is empty; give 1 <= smallest <= largest"
            )

    @classmethod
    def parse(
        cls,
        formulas: str | Sequence[str],
        symbols: Sequence[str],
        size_range: Sequence[int] | None = None,
        even_electrons: bool = False,
    ) -> Bags:
        """From one formula, a list of formulas, or a comma-separated list; `even_electrons` is for random bags."""
        names = formulas.split(",") if isinstance(formulas, str) else list(formulas)
        if not names:
            raise InputError("no formula was given; give at least one, e.g. Ga18")
        low_high = None if size_range is None else (int(size_range[0]), int(size_range[1]))
        electrons = np.array([atomic_numbers[name] for name in symbols]) if even_electrons else None
        return cls(np.stack([formula_counts(name.strip(), symbols) for name in names]), low_high, electrons)

    @classmethod
    def unlimited(cls, symbols: Sequence[str], canvas_size: int) -> Bags:
        """Any composition: each element as often as the canvas has room for.

        >>> Bags.unlimited(("X", "H", "C"), 20).counts.tolist()
        [[0, 20, 20]]
        """
        return cls(np.array([[0] + [canvas_size] * (len(symbols) - 1)], dtype=np.int64), free=True)

    @property
    def largest(self) -> int:
        """Atoms that the largest bag puts on a canvas."""
        if self.free:
            return int(self.counts.max())
        return int(self.counts.sum(1).max()) if self.size_range is None else self.size_range[1]

    @property
    def draws(self) -> int:
        """Uniform numbers that :meth:`draw` takes per episode."""
        if self.size_range is None:
            return 0
        return (1 if self.electrons is None else TRIES) * (1 + self.size_range[1])

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
        uniform = uniform.reshape(len(episode), -1, 1 + high)
        size = low + (uniform[..., 0] * (high - low + 1)).astype(np.int64)
        share = np.cumsum(counts, 1) / counts.sum(1, keepdims=True)
        element = (uniform[..., 1:, None] >= share[:, None, None]).sum(-1)
        chosen = (np.arange(high) < size[..., None])[..., None] & (element[..., None] == np.arange(counts.shape[1]))
        tries: IntArray = chosen.sum(2)
        even = (tries @ (np.zeros_like(counts[0]) if self.electrons is None else self.electrons)) % 2 == 0
        return np.asarray(tries[np.arange(len(episode)), even.argmax(1)])
