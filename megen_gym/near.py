"""What is near in periodic cells that differ from structure to structure: all of them at once, exact in any cell."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from megen_gym.errors import InputError
from megen_gym.images import nearer_side, slices
from megen_gym.reduction import reduced
from megen_gym.structure import BoolArray, FloatArray, IntArray


def within(
    cells: FloatArray,
    pbc: tuple[bool, bool, bool],
    structure: IntArray,
    vectors: FloatArray,
    itself: BoolArray,
    reach: float,
) -> tuple[IntArray, FloatArray]:
    """The images of vectors that are shorter than `reach`, each in the cell of its own structure.

    A vector has as many images as its cell needs for those that are left out to be longer, see
    :class:`megen_gym.images.Images`. They are made in chunks of bounded memory, and only the short ones are kept.

    Args:
        cells: (B, 3, 3) Å, rows are lattice vectors; along axes that are not periodic they do not matter.
        pbc: Periodic axes of all structures.
        structure: (M,) the structure of each vector.
        vectors: (M, 3) Å.
        itself: (M,) from an atom to itself: the vector is zero, and only its other images count.
        reach: Å; infinite only where nothing is periodic.

    Returns:
        Index of the vector (E,) and length (E,) in Å of every image that is short, in the order of the vectors.

    Raises:
        InputError: for an infinite reach where cells are periodic, and for cells that span no volume.
    """
    if not any(pbc):
        size = np.sqrt((vectors**2).sum(1))
        short = np.flatnonzero((size < reach) & ~itself)
        return short, size[short]
    if not math.isfinite(reach):
        raise InputError(f"images up to {reach} Å were asked for in periodic cells; give a finite distance")
    if len(cells) > 1 and (cells == cells[0]).all():
        cells, structure = cells[:1], np.zeros_like(structure)
    basis, dual = _bases(np.asarray(cells, dtype=np.float64).tobytes(), pbc)
    counts = np.maximum(1, np.ceil(2 * reach * np.linalg.norm(dual, axis=1) * (1 + 1e-5))).astype(np.int64)
    fractions = _products(vectors, dual, structure)
    home = np.round(fractions)
    side, nearest = nearer_side(fractions - home), vectors - _products(home, basis, structure)
    number = counts.prod(1)[structure]
    end = np.cumsum(number)
    found = []
    for part in slices(int(number.sum()), 24):
        entry = np.arange(part.start, min(part.stop, int(end[-1])))
        index = entry if end[-1] == len(end) else np.searchsorted(end, entry, side="right")
        image, moved = entry - (end - number)[index], nearest[index]
        far = np.flatnonzero(image)
        if len(far):
            at = structure[index[far]]
            moved[far] += _products(_steps(image[far], counts[at]) * side[index[far]], basis, at)
        square = np.einsum("ex,ex->e", moved, moved)
        short = np.flatnonzero((square < reach**2) & ~(itself[index] & (image == 0)))
        found.append((index[short], np.sqrt(square[short])))
    if not found:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    index, size = (np.concatenate(column) for column in zip(*found, strict=True))
    return index, size


@lru_cache(maxsize=16)
def _bases(cells: bytes, pbc: tuple[bool, bool, bool]) -> tuple[FloatArray, FloatArray]:
    """Reduced lattice vectors (B, P, 3) Å and their dual (B, 3, P) 1/Å; one lattice is often asked for again."""
    given = np.frombuffer(cells).reshape(-1, 3, 3)[:, list(pbc)]
    volume = np.sqrt(np.abs(np.linalg.det(given @ given.transpose(0, 2, 1))))
    good = (volume > 1e-9 * np.linalg.norm(given, axis=2).prod(1)) & np.isfinite(volume)
    if not good.all():
        row = int(good.argmin())
        raise InputError(
            f"the periodic vectors {given[row].tolist()} (Å) of structure {row} span no volume; give finite "
            "vectors that are not in one plane, and no zero vector along a periodic axis"
        )
    basis = reduced(given)
    return basis, basis.transpose(0, 2, 1) @ np.linalg.inv(basis @ basis.transpose(0, 2, 1))


def _products(vectors: FloatArray, matrices: FloatArray, structure: IntArray) -> FloatArray:
    """(M, J) the rows of `vectors` (M, I), each times the matrix (I, J) of its structure."""
    if len(matrices) == 1:
        return np.asarray(vectors @ matrices[0])
    return np.asarray(np.einsum("mi,mij->mj", vectors, matrices[structure]))


def _steps(image: IntArray, counts: IntArray) -> FloatArray:
    """(E, P) whole steps to image number (E,) of `counts` (E, P): 0, 1, -1, 2, -2, ... along each axis."""
    steps, rest = np.zeros(counts.shape), image
    for axis in reversed(range(counts.shape[1])):
        rest, place = np.divmod(rest, counts[:, axis])
        steps[:, axis] = (place + 1) // 2 * np.where(place % 2, 1, -1)
    return steps
