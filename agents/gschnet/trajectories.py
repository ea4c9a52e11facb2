"""Orders in which molecules are built: which atom is the focus at each step, and which neighbour is placed beside it.

A molecule of n atoms is built in 2 n steps (Gebauer et al., NeurIPS 2019): the first puts the first atom beside the
origin; each later one picks a focus among the atoms that are placed and not finished, and places one of its neighbours
that is missing, or, if none is, marks the focus as finished.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from megen_gym.structure import BoolArray, FloatArray, IntArray

Placement = Literal["closest_to_origin", "closest_to_focus", "random"]


@dataclass(frozen=True)
class Trajectories:
    """Building orders of B molecules, in at most T steps.

    Attributes:
        order: (B, N) atom that is placed first, second, ...
        focus: (B, T) node of the focus: 0 is the origin, k the k-th atom placed.
        placed: (B, T) atoms on the canvas before the step.
        places: (B, T) whether the step places an atom; the others mark their focus as finished.
        length: (B,) steps of the molecule.
    """

    order: IntArray
    focus: IntArray
    placed: IntArray
    places: BoolArray
    length: IntArray

    def __getitem__(self, rows: IntArray) -> Trajectories:
        """Those of some molecules."""
        return Trajectories(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def build(
    neighbours: BoolArray,
    n_atoms: IntArray,
    rng: np.random.Generator,
    placement: Placement = "closest_to_origin",
    distances: FloatArray | None = None,
    start: IntArray | None = None,
) -> Trajectories:
    """Draw a building order for each molecule, all of them side by side.

    Args:
        neighbours: (B, N, N) which atoms may be placed beside which; symmetric, without the diagonal. Atoms are sorted
            by their distance to the origin.
        n_atoms: (B,) at least 1; the molecules are connected.
        rng: Draws focus atoms (and neighbours).
        placement: Which missing neighbour comes next: the one closest to the origin (published), the one closest to
            the focus, or any.
        distances: (B, N, N) Å, for "closest_to_focus".
        start: (B,) first atom; by default the one closest to the origin.

    Raises:
        ValueError: for "closest_to_focus" without distances.
    """
    if placement == "closest_to_focus" and distances is None:
        raise ValueError("the neighbour closest to the focus needs distances")
    apart = None if placement == "random" else distances
    size, width = neighbours.shape[:2]
    rows, steps = np.arange(size), 2 * int(n_atoms.max())
    first = np.zeros(size, dtype=np.int64) if start is None else start
    order = np.zeros((size, width), dtype=np.int64)
    node = np.zeros((size, width), dtype=np.int64)
    missing = np.arange(width) < n_atoms[:, None]
    open_ = np.zeros((size, width), dtype=bool)
    focus, placed = np.zeros((size, steps), dtype=np.int64), np.zeros((size, steps), dtype=np.int64)
    places = np.zeros((size, steps), dtype=bool)
    order[:, 0], node[rows, first], open_[rows, first], missing[rows, first] = first, 1, True, False
    places[:, 0] = True
    count = np.ones(size, dtype=np.int64)
    for step in range(1, steps):
        atom = np.where(open_, rng.random((size, width), dtype=np.float32), -1.0).argmax(1)
        candidates = neighbours[rows, atom] & missing
        if placement == "closest_to_origin":
            chosen = candidates.argmax(1)
        else:
            cost = rng.random((size, width)) if apart is None else apart[rows, atom]
            chosen = np.where(candidates, cost, np.inf).argmin(1)
        running = open_.any(1)
        grows = candidates[rows, chosen] & running
        focus[:, step], placed[:, step], places[:, step] = node[rows, atom], count, grows
        r, done = np.flatnonzero(grows), np.flatnonzero(running & ~grows)
        new = chosen[r]
        count[r] += 1
        node[r, new], order[r, count[r] - 1] = count[r], new
        missing[r, new], open_[r, new] = False, True
        open_[done, atom[done]] = False
    return Trajectories(order, focus, placed, places, 2 * n_atoms)
