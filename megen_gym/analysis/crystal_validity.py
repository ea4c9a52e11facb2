"""Is a periodic crystal physically possible at all? No atoms on top of each other, and a cell that has a volume."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from ase import Atoms

from megen_gym.errors import InputError
from megen_gym.near import within
from megen_gym.reduction import reduced
from megen_gym.structure import BoolArray, FloatArray, IntArray

MIN_DISTANCE = 0.5
"""Å; atoms closer than this make a crystal invalid."""

MIN_VOLUME = 0.1
"""Å³; a smaller cell makes a crystal invalid."""

_CHUNK = 1_000_000
"""Pairs that are looked at together."""

_FLAT = 1e-6
"""Volume over the product of the lengths of the cell vectors, below which they lie in one plane up to rounding."""


def valid_structures(
    crystals: Sequence[Atoms], *, min_distance: float = MIN_DISTANCE, min_volume: float = MIN_VOLUME
) -> BoolArray:
    """(B,) whether no two atoms are too close and the cell is large enough.

    The structure validity of CDVAE (Xie et al., ICLR 2022, arXiv 2110.06197). Distances are the shortest ones among all
    periodic images, exact in any cell. In addition to the published code, the distance between an atom and its own
    images counts. Positions or cells that are NaN, infinite or flat, no atoms, and the unknown element X are invalid.

    Args:
        crystals: B crystals of any size, periodic in three directions.
        min_distance: Å; a pair closer than this is refused.
        min_volume: Å³; a cell smaller than this is refused.

    Raises:
        InputError: for a crystal that is not periodic in three directions, or limits that are not above zero.

    >>> from ase.build import bulk
    >>> overlap = Atoms("H2", [[0, 0, 0], [0, 0, 2.8]], cell=[3, 3, 3], pbc=True)
    >>> valid_structures([bulk("Cu"), overlap]).tolist()
    [True, False]
    """
    if not (0 < min_distance < np.inf and 0 < min_volume < np.inf):
        raise InputError(
            f"min_distance {min_distance} and min_volume {min_volume} were given; give finite numbers above zero, "
            f"e.g. {MIN_DISTANCE} and {MIN_VOLUME}"
        )
    require_periodic(crystals)
    valid = np.zeros(len(crystals), dtype=bool)
    for rows, positions, cells, numbers in _equal_sizes(crystals):
        good = _good_cells(positions, cells, min_volume) & (numbers > 0).all(1)
        rows, positions, basis = rows[good], positions[good], reduced(cells[good])
        valid[rows] = (np.linalg.norm(basis, axis=2) >= min_distance).all(1)
        keep = np.flatnonzero(valid[rows])
        first, second = np.triu_indices(positions.shape[1], 1)
        size = max(1, _CHUNK // max(1, len(first)))
        for part in np.split(keep, range(size, len(keep), size)):
            vectors = (positions[part][:, second] - positions[part][:, first]).reshape(-1, 3)
            structure = np.repeat(np.arange(len(part)), len(first))
            itself = np.zeros(len(vectors), dtype=bool)
            if len(vectors):
                near, _ = within(basis[part], (True, True, True), structure, vectors, itself, min_distance)
                valid[rows[part[structure[near]]]] = False
    return valid


def require_periodic(crystals: Iterable[Atoms]) -> None:
    """Refuse structures that are not crystals.

    Raises:
        InputError: naming the first structure that is not periodic in three directions.
    """
    for index, atoms in enumerate(crystals):
        if not np.all(atoms.pbc):
            raise InputError(
                f"structure {index} has pbc={np.asarray(atoms.pbc).tolist()}; expected a crystal that is periodic in "
                "three directions, set its pbc to True"
            )


def _equal_sizes(crystals: Sequence[Atoms]) -> Iterator[tuple[IntArray, FloatArray, FloatArray, IntArray]]:
    """Index (b,), positions (b, N, 3), cells (b, 3, 3) and numbers (b, N) of the crystals of each size N above 0."""
    sizes = np.array([len(atoms) for atoms in crystals], dtype=np.int64)
    for size in np.unique(sizes[sizes > 0]):
        rows = np.flatnonzero(sizes == size)
        chosen = [crystals[row] for row in rows.tolist()]
        yield (
            rows,
            np.array([atoms.positions for atoms in chosen], dtype=np.float64),
            np.array([atoms.cell.array for atoms in chosen], dtype=np.float64),
            np.array([atoms.numbers for atoms in chosen]),
        )


def _good_cells(positions: FloatArray, cells: FloatArray, min_volume: float) -> BoolArray:
    """(b,) whether all numbers are finite and the cell is large enough and not flat."""
    finite: BoolArray = np.asarray(np.isfinite(positions).all((1, 2)) & np.isfinite(cells).all((1, 2)))
    safe = np.where(finite[:, None, None], cells, np.eye(3))
    with np.errstate(over="ignore", invalid="ignore"):
        volume = np.abs(np.linalg.det(safe))
        box = np.linalg.norm(safe, axis=2).prod(1)
        return np.asarray(finite & np.isfinite(box) & (volume >= min_volume) & (volume > _FLAT * box))
