"""What molecules are made of: elements, sizes and rings, counted molecule by molecule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import ArrayLike

from megen_gym.analysis.molecule_bonds import Reading
from megen_gym.structure import FloatArray, IntArray

RINGS = ("R3", "R4", "R5", "R6", "R7", "R8+", "aromatic", "fused")
"""Columns of :func:`ring_counts`: rings by number of atoms, aromatic rings, rings that share a bond with another."""


def element_counts(structures: Sequence[Atoms]) -> IntArray:
    """(M, 119) atoms of each molecule by atomic number.

    >>> from ase.build import molecule
    >>> element_counts([molecule("CH4")])[0, [1, 6, 8]].tolist()
    [4, 1, 0]
    """
    counts = np.zeros((len(structures), len(chemical_symbols)), dtype=np.int64)
    rows = np.repeat(np.arange(len(structures)), [len(atoms) for atoms in structures])
    if len(rows):
        np.add.at(counts, (rows, np.concatenate([atoms.numbers for atoms in structures])), 1)
    return counts


def ring_counts(readings: Sequence[Reading]) -> IntArray:
    """(M, 8) rings of each molecule, columns :data:`RINGS`; the symmetrised set of smallest rings.

    >>> from ase.build import molecule
    >>> from megen_gym.analysis.molecule_validity import check
    >>> dict(zip(RINGS, ring_counts(check([molecule("C6H6")]).readings)[0].tolist()))
    {'R3': 0, 'R4': 0, 'R5': 0, 'R6': 1, 'R7': 0, 'R8+': 0, 'aromatic': 1, 'fused': 0}
    """
    counts = np.zeros((len(readings), len(RINGS)), dtype=np.int64)
    table = np.array(
        [(row, *ring) for row, reading in enumerate(readings) for ring in reading.rings], dtype=np.int64
    ).reshape(-1, 4)
    rows, sizes, aromatic, fused = table.T
    np.add.at(counts, (rows, np.minimum(sizes, 8) - 3), 1)
    for column, marked in ((6, aromatic), (7, fused)):
        counts[:, column] = np.bincount(rows[marked > 0], minlength=len(readings))
    return counts


def jensen_shannon(first: ArrayLike, second: ArrayLike) -> float:
    """Jensen-Shannon divergence of two distributions, in bits: 0 for equal ones, 1 where nothing is common to them.

    Args:
        first: (K,) counts or weights, at least 0; scaled to a sum of 1.
        second: (K,) the same of the other one.

    Returns:
        The divergence (Lin, IEEE Trans. Inf. Theory 1991, 37, 145); NaN where one has no weight at all.

    >>> jensen_shannon([1, 1, 0], [0, 0, 5]), jensen_shannon([2, 4], [1, 2])
    (1.0, 0.0)
    """
    p, q = (np.asarray(counts, dtype=np.float64) for counts in (first, second))
    if not p.sum() > 0 or not q.sum() > 0:
        return float("nan")
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    return float(max((_entropy(middle) - (_entropy(p) + _entropy(q)) / 2), 0.0))


def _entropy(shares: FloatArray) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log2(positive)).sum())


def of_kinds(first: ArrayLike, second: ArrayLike) -> float:
    """Jensen-Shannon divergence (bits) of how often each kind occurs in two lists of kinds.

    >>> of_kinds([1, 2, 2], [2, 1, 2])
    0.0
    """
    own, other = np.asarray(first), np.asarray(second)
    if not len(own) or not len(other):
        return float("nan")
    _, index = np.unique(np.concatenate([own, other]), return_inverse=True)
    counts = [np.bincount(part, minlength=index.max() + 1) for part in np.split(index, [len(own)])]
    return jensen_shannon(counts[0], counts[1])
