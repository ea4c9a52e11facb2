"""From the structures of a cell to the numbers of its row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megen_gym.analysis.unique import unique
from megen_gym.arena.cell import Outcome
from megen_gym.arena.found import Finds
from megen_gym.structure import FloatArray, IntArray, StructureBatch

MOST = 2000
"""Structures among which duplicates are looked for, the first ones or the lowest ones; their search is quadratic."""

SOFT = 0.2
"""Å; sorted distances of one minimum, relaxed more than once, differ by no more."""

ALIKE = 0.0075
"""Of the energy per atom; energies of one minimum, relaxed more than once, differ by no more."""

WINDOW = 0.1
"""Of the size of the best value: how far above it a minimum may lie to count as low, where no window is given."""


@dataclass(frozen=True)
class Row:
    """What one policy reached with one seed.

    Attributes:
        task: Environment and reward in words.
        policy: Its name.
        seed: Its seed.
        evaluations: Spent.
        structures: Handed in.
        valid: Share of them, 0-1; NaN without any.
        unique: Share of the valid ones (of the first 2,000) that is no duplicate of an earlier one.
        novel: Share of the unique ones that the reference does not hold; NaN without a reference.
        best: Lowest energy of a valid one (eV; eV/atom where sizes differ), or highest return.
        minima: Distinct valid structures within the window above the best known value, relaxed ones where structures
            are relaxed.
        hit: Evaluations until the known minimum was evaluated; NaN where it was not, or none is known.
        cpu: Seconds of the processor.
        error: Why the policy failed; "" if it did not.
    """

    task: str
    policy: str
    seed: int
    evaluations: int = 0
    structures: int = 0
    valid: float = np.nan
    unique: float = np.nan
    novel: float = np.nan
    best: float = np.nan
    minima: int = 0
    hit: float = np.nan
    cpu: float = 0.0
    error: str = ""


def row_of(
    outcome: Outcome, finds: Finds, low: float, reference: StructureBatch | None = None, per_atom: bool = False
) -> Row:
    """The row of a cell.

    Args:
        outcome: What became of it.
        finds: Its structures.
        low: Values (eV, or minus a return) up to this are low; by atom if `per_atom`.
        reference: Known structures.
        per_atom: Whether values are compared by atom, for structures of different sizes.
    """
    cell = outcome.cell
    row = Row(cell.task, cell.policy, cell.seed, error=outcome.error)
    if outcome.error:
        return row
    batch = finds.batch(outcome.symbols, outcome.pbc)
    good = finds.valid & np.isfinite(finds.value)
    value = comparable(finds, per_atom)
    first = np.flatnonzero(finds.valid)[:MOST]
    own = distinct(batch[first])
    candidates = np.flatnonzero(good & (value <= low) & (finds.minimum | (not outcome.relaxed)))
    candidates = candidates[np.argsort(value[candidates], kind="stable")][:MOST]
    low_ones = batch[candidates]
    minima = distinct_minima(low_ones, finds.value[candidates]) if outcome.relaxed else distinct(low_ones)
    best = float(value[good].min()) if good.any() else np.nan
    return Row(
        cell.task,
        cell.policy,
        cell.seed,
        outcome.evaluations,
        len(finds),
        float(finds.valid.mean()) if len(finds) else np.nan,
        len(own) / len(first) if len(first) else np.nan,
        np.nan if reference is None or not len(own) else _novel(batch[first[own]], reference),
        best if outcome.energy else -best,
        len(minima),
        np.nan if outcome.hit is None else float(outcome.hit),
        outcome.cpu,
    )


def comparable(finds: Finds, per_atom: bool) -> FloatArray:
    """(M,) values, by atom where structures of different sizes are compared."""
    return np.asarray(finds.value / np.maximum((finds.species > 0).sum(1), 1) if per_atom else finds.value)


def distinct(batch: StructureBatch) -> IntArray:
    """Rows that represent groups of equal structures."""
    if not len(batch):
        return np.zeros(0, dtype=np.int64)
    return unique(batch, "soap" if any(batch.pbc) else "distances")[0]


def distinct_minima(batch: StructureBatch, energy: FloatArray) -> IntArray:
    """Rows that represent different minima, the first of each, ascending.

    A relaxation ends when the forces are small, on a soft energy surface some way from the minimum: clusters whose
    sorted distances differ from those of the lowest by up to :data:`SOFT` are one minimum if their energies are as good
    as equal. Who belongs together does not depend on the order.

    Args:
        batch: Relaxed structures.
        energy: (B,) eV of each.
    """
    if not len(batch) or any(batch.pbc):
        return distinct(batch)
    order = np.argsort(energy, kind="stable")
    group = unique(batch[order], "distances", SOFT)[1]
    close = ALIKE * np.abs(energy) / batch.n_atoms
    first = []
    for members in (order[group == one] for one in range(group.max() + 1)):
        begin = 0
        while begin < len(members):
            lowest = members[begin]
            end = begin + int(np.searchsorted(energy[members[begin:]], energy[lowest] + close[lowest], side="right"))
            first.append(members[begin:end].min())
            begin = end
    return np.sort(np.array(first, dtype=np.int64))


def _novel(own: StructureBatch, reference: StructureBatch) -> float:
    """Share of `own`, all different, that is not in the reference."""
    known = reference.to_atoms()
    kinds = {*own.symbols, *reference.symbols} - {"X"}
    both = StructureBatch.from_atoms([*known, *own.to_atoms()], ["X", *sorted(kinds)])
    _, group = unique(both, "soap" if any(both.pbc) else "distances")
    return float(np.mean(~np.isin(group[len(known) :], group[: len(known)])))


def best_and_low(
    outcomes: Sequence[Outcome], finds: Sequence[Finds], window: float | None, per_atom: bool
) -> tuple[float, float]:
    """The best value known to anybody in one task, the known minimum included, and up to where values are low.

    Args:
        outcomes: The cells of the task.
        finds: Their structures.
        window: eV (by atom if `per_atom`) above the best; None for a tenth of its size.
        per_atom: As in :func:`row_of`.
    """
    known = [] if per_atom else [outcome.target for outcome in outcomes if outcome.target is not None]
    for one in finds:
        value = comparable(one, per_atom)[one.valid]
        known += value[np.isfinite(value)].tolist()
    if not known:
        return np.nan, -np.inf
    best = float(min(known))
    return best, best + (WINDOW * abs(best) if window is None else window)
