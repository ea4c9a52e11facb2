"""Atoms that are too close are moved apart, across the boundaries of the cell as well."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megen_gym.errors import InputError
from megen_gym.periodic import Lattice
from megen_gym.runs import write_text
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch

COUNTS = "too_close_count.csv"

MARGIN = 0.1
"""Å by which a pair is moved beyond the limit, so that its neighbours do not push it back at once."""

_CHUNK = 1 << 21


@dataclass(frozen=True)
class Apart:
    """Outcome of :func:`move_apart`.

    Attributes:
        structures: All B of them, the failed ones as given.
        pairs: (B,) how many pairs were closer than the limit.
        iterations: (B,) how many rounds of moves it took.
        failed: (B,) whether atoms were still too close after the last round.
    """

    structures: StructureBatch
    pairs: IntArray
    iterations: IntArray
    failed: BoolArray

    @property
    def accepted(self) -> StructureBatch:
        """The structures that did not fail."""
        return self.structures[~self.failed]

    def write_counts(self, folder: str | Path) -> Path:
        """Write ``too_close_count.csv``: structure, pairs, iterations, failed."""
        rows = zip(self.pairs.tolist(), self.iterations.tolist(), self.failed.tolist(), strict=True)
        lines = [f"{index},{pairs},{rounds},{failed}" for index, (pairs, rounds, failed) in enumerate(rows)]
        path = Path(folder) / COUNTS
        write_text(path, "\n".join(["structure,pairs,iterations,failed", *lines]) + "\n")
        return path


def move_apart(
    structures: StructureBatch, min_distance: float = 1.5, max_iterations: int = 100, seed: int = 0
) -> Apart:
    """Move every pair of atoms closer than `min_distance` along its shortest connection, half the way each.

    All pairs of a structure move at once; rounds follow until none is too close. Atoms in one place part in a random
    direction. A structure in which this does not succeed has failed, among them those whose cell is so thin that an
    atom is too close to its own image.

    Args:
        structures: B structures, periodic or not.
        min_distance: Å.
        max_iterations: Rounds.
        seed: Of the random directions.

    Raises:
        InputError: for values out of range.

    >>> from ase import Atoms
    >>> pair = Atoms("Cu2", [[0.2, 5, 5], [9.8, 5, 5]], cell=[10, 10, 10], pbc=True)
    >>> done = move_apart(StructureBatch.from_atoms([pair]), min_distance=1.0)
    >>> done.pairs.tolist(), done.structures.positions[0, :, 0].round(3).tolist()
    ([1], [0.55, 9.45])
    """
    if not min_distance > 0 or max_iterations < 0:
        raise InputError(
            f"cannot move atoms {min_distance} Å apart in {max_iterations} rounds; expected a positive distance and "
            "a number of rounds"
        )
    count = len(structures)
    positions = np.array(structures.positions, dtype=np.float64)
    pairs, rounds = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    failed = np.zeros(count, dtype=bool)
    cells = np.zeros((count, 3, 3)) if structures.cell is None else np.asarray(structures.cell, dtype=np.float64)
    kinds, kind = np.unique(cells.reshape(count, 9), axis=0, return_inverse=True)
    width = max(1, _CHUNK // max(1, positions.shape[1] ** 2))
    rng = np.random.default_rng(seed)
    for index, cell in enumerate(kinds):
        lattice = Lattice(cell.reshape(3, 3), structures.pbc)
        rows = np.flatnonzero(kind.reshape(-1) == index)
        for at in range(0, len(rows), width):
            part = rows[at : at + width]
            result = _move(positions[part], structures.mask[part], lattice, min_distance, max_iterations, rng)
            positions[part], pairs[part], rounds[part], failed[part] = result
    positions[failed] = structures.positions[failed]
    moved = StructureBatch.trusted(
        positions.astype(structures.positions.dtype), structures.species, structures.symbols, structures.cell,
        structures.pbc,
    )  # fmt: skip
    return Apart(moved, pairs, rounds, failed)


def _move(
    positions: FloatArray, mask: BoolArray, lattice: Lattice, limit: float, most: int, rng: np.random.Generator
) -> tuple[FloatArray, IntArray, IntArray, BoolArray]:
    """Positions, pairs, rounds and failures of structures in one cell."""
    pairs, rounds = np.zeros(len(positions), dtype=np.int64), np.zeros(len(positions), dtype=np.int64)
    failed = np.zeros(len(positions), dtype=bool)
    if any(lattice.pbc) and float(lattice.nearest(np.zeros((1, 3)), 1)[0, 0]) < limit:
        return positions, pairs, rounds, ~failed
    first, second = np.triu_indices(positions.shape[1], 1)
    real = mask[:, first] & mask[:, second]
    active = np.arange(len(positions))
    for turn in range(most + 1):
        vector = lattice.minimum_image(positions[active][:, second] - positions[active][:, first])
        length = np.linalg.norm(vector, axis=2)
        close = (length < limit) & real[active]
        if turn == 0:
            pairs[:] = close.sum(axis=1)
        failed[active] = close.any(axis=1)
        busy = np.flatnonzero(close.any(axis=1))
        if not len(busy) or turn == most:
            break
        row, pair = np.nonzero(close[busy])
        found, size = vector[busy][row, pair], length[busy][row, pair]
        lost = size < 1e-6
        found[lost] = rng.normal(size=(int(lost.sum()), 3))
        found *= ((limit + MARGIN - size) / (2 * np.linalg.norm(found, axis=1)))[:, None]
        active = active[busy]
        rounds[active] += 1
        np.add.at(positions, (active[row], first[pair]), -found)
        np.add.at(positions, (active[row], second[pair]), found)
    return positions, pairs, rounds, failed
