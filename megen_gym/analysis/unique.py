"""Duplicates: which structures are the same up to rotation, translation, reflection and numbering of the atoms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from ase.data import chemical_symbols

from megen_gym.errors import InputError, nearest
from megen_gym.rules import pair_distances
from megen_gym.structure import FloatArray, IntArray, StructureBatch

Method = Literal["distances", "soap"]

TOLERANCE: dict[str, float] = {"distances": 0.05, "soap": 2e-5}
"""Default tolerances: Å between sorted distances; 1 - similarity. The two agree for Ga clusters: over 161 minima of
4-17 atoms, pairs within 0.05 Å differ by at most 2.1e-5, pairs beyond 0.2 Å by at least 2.0e-5."""

SOAP = {"r_cut": 8.0, "n_max": 10, "l_max": 6, "sigma": 0.4}
"""dscribe's parameters of the descriptor; Å."""

_CHUNK = 2_000_000


def unique(batch: StructureBatch, method: Method = "distances", tol: float | None = None) -> tuple[IntArray, IntArray]:
    """Group structures that are the same; the first one of each group represents it.

    Structures of different composition are never duplicates. **Mirror images count as duplicates**: neither distances
    nor the SOAP power spectrum tell them apart, and their energies are equal. The input's order decides who represents
    a group: sort by energy first to keep the best. Every member lies within the tolerance of its representative.

    Args:
        batch: Structures; periodic ones need ``method="soap"``.
        method: ``"distances"`` compares the sorted distances of all pairs, per kind of pair of elements; ``"soap"``
            compares the averaged SOAP power spectra of dscribe by their normalised scalar product (Bartók et al., Phys.
            Rev. B 87, 184115; average kernel of De et al., Phys. Chem. Chem. Phys. 18, 13754).
        tol: Largest difference of any two sorted distances in Å, or largest 1 - similarity; by default `TOLERANCE`.

    Returns:
        Indices of the representatives (U,), ascending, and for every structure the number of its group (B,), an index
        into the former.

    Raises:
        InputError: for an unknown method, a tolerance that is negative, or periodic structures compared by distances.
    """
    if method not in get_args(Method):
        raise InputError(f"unknown method {method!r} of finding duplicates; {nearest(str(method), get_args(Method))}")
    tol = TOLERANCE[method] if tol is None else float(tol)
    if not tol >= 0:
        raise InputError(f"the tolerance {tol} is negative or not a number; expected 0 or more")
    if method == "distances" and any(batch.pbc):
        raise InputError("the structures are periodic, sorted distances are for clusters; use method 'soap'")
    counts = (batch.species[:, :, None] == np.arange(1, len(batch.symbols))).sum(axis=1)
    _, composition = np.unique(counts, axis=0, return_inverse=True)
    leader = np.arange(len(batch))
    for group in range(composition.max() + 1 if len(batch) else 0):
        rows = np.flatnonzero(composition == group)
        if len(rows) > 1 and batch.species[rows[0]].any():
            same = _same_distances(batch[rows], tol) if method == "distances" else _same_soap(batch[rows], tol)
            leader[rows] = rows[_leaders(len(rows), same)]
        else:
            leader[rows] = rows[0]
    representatives, labels = np.unique(leader, return_inverse=True)
    return representatives, labels


def _leaders(count: int, same: Callable[[int], IntArray]) -> IntArray:
    """(count,) first structure of the group of each; `same` gives the structures equal to one.

    Sequential by nature: one turn per *representative*, each of which compares with all others at once.
    """
    leader = np.full(count, -1)
    for row in range(count):
        if leader[row] < 0:
            equal = same(row)
            leader[equal[leader[equal] < 0]] = row
            leader[row] = row
    return leader


def distance_fingerprints(batch: StructureBatch) -> FloatArray:
    """(B, n(n-1)/2) Å sorted distances of structures of one composition, one block per kind of pair of elements."""
    n_atoms = int(batch.n_atoms[0])
    order = np.argsort(np.where(batch.mask, batch.species, len(batch.symbols)), axis=1, kind="stable")[:, :n_atoms]
    species = np.take_along_axis(batch.species, order, axis=1)
    positions = np.take_along_axis(batch.positions.astype(np.float64), order[:, :, None], axis=1)
    first, second = np.triu_indices(n_atoms, 1)
    kind = species[0][first] * len(batch.symbols) + species[0][second]
    size = max(1, _CHUNK // max(1, n_atoms**2))
    parts = [
        pair_distances(positions[at : at + size], species[at : at + size] > 0)[:, first, second]
        for at in range(0, len(batch), size)
    ]
    distances = np.concatenate(parts)
    blocks = [np.sort(distances[:, kind == one], axis=1) for one in np.unique(kind)]
    return np.concatenate(blocks, axis=1) if blocks else distances


def _same_distances(batch: StructureBatch, tol: float) -> Callable[[int], IntArray]:
    """Exact test on all distances, after a tree has left only structures whose means of 8 blocks are close enough."""
    from scipy.spatial import KDTree

    prints = distance_fingerprints(batch)
    if not prints.shape[1]:
        return lambda row: np.arange(len(batch))
    blocks = np.array_split(prints, min(8, prints.shape[1]), axis=1)
    coarse = np.stack([block.mean(axis=1) for block in blocks], axis=1)
    tree = KDTree(coarse)

    def same(row: int) -> IntArray:
        near = np.array(tree.query_ball_point(coarse[row], tol + 1e-9, p=np.inf), dtype=np.int64)
        equal: IntArray = near[np.abs(prints[near] - prints[row]).max(axis=1) <= tol + 1e-12]
        return equal

    return same


def soap_vectors(batch: StructureBatch) -> FloatArray:
    """(B, D) averaged SOAP power spectra of unit length; needs finite positions, which a batch guarantees."""
    from dscribe.descriptors import SOAP as Descriptor

    if not np.isfinite(batch.positions).all():
        raise InputError("the structures have positions that are NaN or infinite; repair or remove them")
    species = [chemical_symbols[z] for z in np.unique(batch.numbers) if z > 0]
    soap = Descriptor(species=species, periodic=any(batch.pbc), average="outer", **SOAP)
    vectors = np.asarray(soap.create(batch.to_atoms()), dtype=np.float64).reshape(len(batch), -1)
    unit: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)
    return unit


def _same_soap(batch: StructureBatch, tol: float) -> Callable[[int], IntArray]:
    vectors = soap_vectors(batch)
    return lambda row: np.flatnonzero(1 - vectors @ vectors[row] <= tol + 1e-12)
