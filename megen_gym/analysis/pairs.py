"""Pairs of atoms with all periodic images, and the partial radial distribution functions made of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from megen_gym.analysis.ensemble import Ensemble
from megen_gym.errors import InputError
from megen_gym.structure import FloatArray, IntArray

R_MAX, BIN = 8.0, 0.05
"""Å; range and resolution of radial distributions."""

_CHUNK = 1 << 22


class Pairs(NamedTuple):
    """P pairs of atoms within a distance, each once.

    Attributes:
        row: (P,) structure.
        first: (P,) atom.
        second: (P,) the other atom, or the same one if it is an image of itself.
        vector: (P, 3) Å from the first to the image of the second.
    """

    row: IntArray
    first: IntArray
    second: IntArray
    vector: FloatArray


def close_pairs(ensemble: Ensemble, cutoff: float) -> Iterator[Pairs]:
    """All pairs closer than `cutoff` (Å), structure after structure, in portions that fit into memory.

    Wrapped differences f have |f| <= 1/2, and an image n along an axis is at least |f + n| h away, with h the distance
    between the faces of the cell: that says how many images there are to look at, in any cell.
    """
    first, second = np.triu_indices(len(ensemble.numbers), 0)
    same = first == second
    lattice, pbc = ensemble.lattice, np.array(ensemble.batch.pbc)
    reach = np.where(pbc, np.floor(cutoff / lattice.heights + 0.5), 0).astype(np.int64)
    steps = np.array(list(itertools.product(*(range(-n, n + 1) for n in reach))))
    images = lattice.cartesian(steps.astype(np.float64))
    # An atom and its own image: one of n and -n, and not the atom itself.
    forward = [tuple(step) > (0, 0, 0) for step in steps.tolist()]
    size = max(1, _CHUNK // max(1, len(first)))
    for at in range(0, len(ensemble), size):
        positions = np.asarray(ensemble.batch.positions[at : at + size], dtype=np.float64)
        fractions = lattice.fractional(positions[:, second] - positions[:, first])
        delta = lattice.cartesian(fractions - np.round(fractions) * pbc)
        for image, ahead in zip(images, forward, strict=True):
            vector = delta + image
            near = np.einsum("bpx,bpx->bp", vector, vector) < cutoff**2
            near &= ahead | ~same
            row, pair = np.nonzero(near)
            if len(row):
                yield Pairs(row + at, first[pair], second[pair], vector[row, pair])


def pair_kinds(ensemble: Ensemble) -> list[tuple[int, int]]:
    """Indices of the two elements of each kind of pair, the first not after the second."""
    return list(itertools.combinations_with_replacement(range(len(ensemble.elements)), 2))


def pair_names(ensemble: Ensemble) -> list[str]:
    """Names of the kinds of pairs, e.g. ``["Cu-Cu", "Cu-Au", "Au-Au"]``."""
    return [f"{ensemble.elements[a]}-{ensemble.elements[b]}" for a, b in pair_kinds(ensemble)]


def bin_edges(r_max: float = R_MAX, width: float = BIN) -> FloatArray:
    """(M+1,) Å, from 0 to r_max.

    Raises:
        InputError: for a width outside (0, r_max].
    """
    if not 0 < width <= r_max or r_max / width > 1e5:
        raise InputError(f"cannot divide 0 to {r_max} Å into bins of {width} Å; expected 0 < width <= r_max")
    return np.asarray(np.linspace(0, r_max, round(r_max / width) + 1))


def pair_counts(ensemble: Ensemble, r_max: float = R_MAX, width: float = BIN) -> FloatArray:
    """(B, K, M) how many neighbours at each distance, summed over atoms, per kind of pair; a pair counts twice.

    Args:
        ensemble: B structures with K kinds of pairs, see :func:`pair_names`.
        r_max: Å.
        width: Å of a bin.
    """
    bins = len(bin_edges(r_max, width)) - 1
    element = np.zeros(len(ensemble.numbers), dtype=np.int64)
    for index, columns in enumerate(ensemble.columns):
        element[columns] = index
    kinds = pair_kinds(ensemble)
    kind = np.zeros((len(ensemble.elements),) * 2, dtype=np.int64)
    for index, (a, b) in enumerate(kinds):
        kind[a, b] = kind[b, a] = index
    label = kind[element[:, None], element]
    counts = np.zeros(len(ensemble) * len(kinds) * bins, dtype=np.int64)
    for pairs in close_pairs(ensemble, r_max):
        place = np.linalg.norm(pairs.vector, axis=1) * (bins / r_max)
        place = np.minimum(place.astype(np.int64), bins - 1)
        at = (pairs.row * len(kinds) + label[pairs.first, pairs.second]) * bins + place
        low = int(at.min())
        found = np.bincount(at - low)
        counts[low : low + len(found)] += 2 * found
    return counts.reshape(len(ensemble), len(kinds), bins).astype(np.float64)


def partial_rdf(ensemble: Ensemble, counts: FloatArray, r_max: float = R_MAX) -> FloatArray:
    """(..., K, M) g_ab(r) from the counts of :func:`pair_counts`; 1 at large r in a homogeneous crystal.

    The density is that of the whole cell, vacuum included. Without periodicity along all axes there is no density; the
    counts are then divided as if the volume per atom were 20 Å³.
    """
    edges = np.linspace(0, r_max, counts.shape[-1] + 1)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    volume = ensemble.lattice.volume if all(ensemble.batch.pbc) else 20.0 * len(ensemble.numbers)
    sizes = [len(columns) for columns in ensemble.columns]
    # The pair a-b was counted from both ends: twice the N_a N_b ordered pairs where the elements differ.
    ideal = np.array([sizes[a] * sizes[b] * (1 if a == b else 2) for a, b in pair_kinds(ensemble)])
    return np.asarray(counts * volume / (ideal[:, None] * shells))
