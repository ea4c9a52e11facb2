"""Which sites may come next, so that a list of sites can still end with exactly the composition asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megen_gym.errors import InputError
from megen_gym.structure import BoolArray, FloatArray, IntArray
from megen_gym.wyckoff import LETTERS, SpaceGroup, wyckoff_table

NEVER = 255
"""Sites that an impossible end takes."""

LARGEST = 200_000_000
"""Bytes that the tables may take."""


@dataclass(frozen=True, eq=False)
class Goals:
    """The compositions that a list of sites may end with.

    Atoms are counted along D axes: one per element of a formula, or one for all elements where any will do.

    Attributes:
        counts: (T, D) atoms of each goal.
        axis: (S,) axis of each symbol, -1 for X and for elements that the goals have no use for.

    Raises:
        InputError: without a goal.
    """

    counts: IntArray
    axis: IntArray

    def __post_init__(self) -> None:
        if not self.counts.size or self.counts.min() < 0 or not self.counts.any(1).all():
            raise InputError("no composition to reach was given; give at least one with an atom in it")

    @classmethod
    def of_formula(cls, formula: IntArray, most: int, n_atoms: int | None = None) -> Goals:
        """Every number of formula units, or the one that makes `n_atoms`.

        Args:
            formula: (S,) atoms of each symbol in a formula unit.
            most: Atoms at most.
            n_atoms: Atoms exactly.

        Raises:
            InputError: where no number of units fits.
        """
        unit = int(formula.sum())
        if n_atoms is not None and (n_atoms % unit or not 0 < n_atoms <= most):
            raise InputError(
                f"n_atoms is {n_atoms}, but a formula unit has {unit} atoms and max_atoms is {most}; "
                f"give a multiple of {unit} up to max_atoms"
            )
        if unit > most:
            raise InputError(f"a formula unit has {unit} atoms, but max_atoms is {most}; raise max_atoms")
        units = np.arange(1, most // unit + 1) if n_atoms is None else np.array([n_atoms // unit])
        used = formula > 0
        return cls(units[:, None] * formula[used], np.where(used, np.cumsum(used) - 1, -1))

    @classmethod
    def of_size(cls, symbols: int, most: int, n_atoms: int | None = None) -> Goals:
        """Any composition of up to `most` atoms, or of exactly `n_atoms`.

        Raises:
            InputError: for an `n_atoms` that is not possible.
        """
        if n_atoms is not None and not 0 < n_atoms <= most:
            raise InputError(f"n_atoms is {n_atoms}, but max_atoms is {most}; give 1 to max_atoms")
        sizes = np.arange(1, most + 1) if n_atoms is None else np.array([n_atoms])
        return cls(sizes[:, None], np.where(np.arange(symbols) > 0, 0, -1))


class Reach:
    """For each group, letter and number of atoms placed: the fewest sites that still lead to a goal.

    Found by dynamic programming from the last letter to the first: a full site (no free coordinates) is taken once or
    not, any other as often as atoms are left. The table has one layer for each goal where the goals are told apart
    (the volume is fixed before the sites), or one for all of them.

    Args:
        groups: The G groups that episodes may have.
        goals: What the sites may end with.
        n_max: Sites at most.
        apart: Whether goals are told apart.

    Attributes:
        sizes: (T,) atoms of each layer's goal; of the smallest one where they are not told apart.
        possible: (G, T) layers that a group can reach.

    Raises:
        InputError: where a group cannot reach any goal, or the table would be too large.
    """

    def __init__(self, groups: Sequence[SpaceGroup], goals: Goals, n_max: int, apart: bool = False) -> None:
        if not 1 <= n_max < NEVER:
            raise InputError(f"n_max is {n_max}; give 1 to {NEVER - 1} sites")
        self.goals, self.n_max = goals, n_max
        self.most = goals.counts.max(0)
        shape = tuple((self.most + 1).tolist())
        self._stride = np.array([int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))], dtype=np.int64)
        layers = len(goals.counts) if apart else 1
        rows = sum(len(group.letters) + 1 for group in groups)
        if layers * rows * int(np.prod(shape)) > LARGEST:
            raise InputError(
                f"{len(groups)} space groups with up to {int(self.most.sum())} atoms of {len(shape)} kinds need a "
                f"table of {layers * rows * int(np.prod(shape)) // 10**6} MB; lower max_atoms, or give fewer groups"
            )
        end = np.full((layers, *shape), NEVER, dtype=np.uint8)
        for layer, counts in enumerate(goals.counts.tolist()):
            end[(layer if apart else 0, *counts)] = 0
        parts = [_fewest(group, end) for group in groups]
        self._row = np.cumsum([0, *(len(part) for part in parts)])[:-1]
        self._table = np.concatenate(parts).reshape(rows, layers, -1).transpose(1, 0, 2)
        letters = len(LETTERS)
        self.letters = np.array([len(group.letters) for group in groups])
        self.multiplicity = np.ones((len(groups), letters), dtype=np.int64)
        self.full = np.zeros((len(groups), letters), dtype=bool)
        for index, group in enumerate(groups):
            self.multiplicity[index, : len(group.letters)] = group.multiplicity
            self.full[index, : len(group.letters)] = ~group.free.any(1)
        self.sizes = goals.counts.sum(1)[: None if apart else 1]
        fewest = self._table[:, self._row, 0].T
        self.possible = fewest <= n_max
        for index in np.flatnonzero(~self.possible.any(1))[:1]:
            self._refuse(groups[index], int(fewest[index].min()))
        self.fewest_atoms, self.most_atoms = self._extremes(apart)

    def masks(
        self, group: IntArray, low: IntArray, counts: IntArray, left: IntArray, layers: BoolArray
    ) -> tuple[BoolArray, BoolArray]:
        """What may come next.

        Args:
            group: (B,) index of the group.
            low: (B,) lowest letter (0 is a) that may be used.
            counts: (B, D) atoms placed.
            left: (B,) sites that are left.
            layers: (B, T) goals that count.

        Returns:
            (B, 27, D) letters and axes that a site may take, and (B,) whether the list may end here.
        """
        letters = np.arange(len(LETTERS))
        multiplicity = self.multiplicity[group]
        open_ = (letters >= low[:, None]) & (letters < self.letters[group][:, None]) & (left > 0)[:, None]
        fits = open_[..., None] & (counts[:, None] + multiplicity[..., None] <= self.most)
        here = counts @ self._stride
        row = self._row[group][:, None] + np.minimum(letters + self.full[group], self.letters[group][:, None])
        cell = here[:, None, None] + multiplicity[..., None] * self._stride
        batch, letter, axis = np.nonzero(fits)
        sites = self._table[:, row[batch, letter], cell[batch, letter, axis]].T
        good = ((sites < left[batch, None]) & layers[batch]).any(1)
        fits[batch[~good], letter[~good], axis[~good]] = False
        ended = self._table[:, self._row[group] + self.letters[group], here].T == 0
        return fits, (ended & layers).any(1)

    def layers_for(self, volume: FloatArray, per_atom: tuple[float, float]) -> BoolArray:
        """(B, T) goals whose volume per atom would be in range in cells of `volume` (B,) Å³."""
        density = volume[:, None] / self.sizes
        return np.asarray((density >= per_atom[0] * (1 - 1e-5)) & (density <= per_atom[1] * (1 + 1e-5)))

    def _extremes(self, apart: bool) -> tuple[IntArray, IntArray]:
        """(G,) atoms of the smallest and the largest goal that each group can reach."""
        if not apart:
            sizes = self.goals.counts.sum(1)
            return np.full(len(self._row), sizes.min()), np.full(len(self._row), sizes.max())
        sizes = np.broadcast_to(self.sizes, self.possible.shape)
        return np.where(self.possible, sizes, 10**9).min(1), np.where(self.possible, sizes, 0).max(1)

    def _refuse(self, group: SpaceGroup, fewest: int) -> None:
        sizes = sorted(set(self.goals.counts.sum(1).tolist()))
        asked = f"{sizes[0]} atoms" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} atoms"
        name = f"space group {group.number} ({group.symbol})"
        if fewest < NEVER:
            raise InputError(
                f"n_max is {self.n_max}, but the composition takes at least {fewest} sites of {name}; "
                f"give n_max={fewest} or more, or leave that group out"
            )
        raise InputError(
            f"no set of Wyckoff sites of {name} gives the composition with {asked}; its sites hold "
            f"{_listed(group.multiplicity)} atoms; give another composition, number of atoms, or group"
        )


def _listed(multiplicity: IntArray) -> str:
    return ", ".join(str(m) for m in sorted(set(multiplicity.tolist())))


def _fewest(group: SpaceGroup, end: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> np.ndarray:  # type: ignore[type-arg]
    """(L + 1, T, counts ...) fewest sites to a goal with the letters from each one on; the last row is the end."""
    table = wyckoff_table()
    rows = [end]
    for position in reversed(range(group.positions.start, group.positions.stop)):
        step, full = int(table.multiplicity[position]), not table.free[position].any()
        best = rows[-1].copy()
        for axis in range(1, end.ndim):
            size = end.shape[axis]
            mine = np.moveaxis(best, axis, 0)
            if full:
                after = np.moveaxis(rows[-1], axis, 0)[step:]
                np.minimum(mine[: max(size - step, 0)], after + (after < NEVER), out=mine[: max(size - step, 0)])
                continue
            for low in range(size - step - 1, -1, -step):  # as often as it fits: from many atoms to few
                part = slice(max(low - step + 1, 0), low + 1)
                after = mine[part.start + step : part.stop + step]
                np.minimum(mine[part], after + (after < NEVER), out=mine[part])
        rows.append(best)
    return np.stack(rows[::-1])
