"""Distributions of bond angles."""

from __future__ import annotations

import numpy as np

from megen_gym.analysis.ensemble import Ensemble, Reference
from megen_gym.analysis.pairs import close_pairs
from megen_gym.errors import InputError
from megen_gym.structure import FloatArray

BINS = 360
"""Half a degree each, as in Dismai-Bench."""

BOND = 1.2
"""Bond length over the median distance to the nearest neighbour: between the first and the second shell of fcc (1.41),
hcp and diamond (1.63); in bcc (1.15) both count."""

MOST_BONDS = 24
"""Of each atom, the shortest ones: no crystal has more, and a collapsed structure would have all pairs."""

_CHUNK = 1 << 21


def bond_cutoff(reference: Reference) -> float:
    """Å up to which two atoms of this system are bonded: 1.2 times the median nearest-neighbour distance."""
    return BOND * float(np.median(reference.sorted_nearest))


def angle_edges() -> FloatArray:
    """(361,) degrees."""
    return np.asarray(np.linspace(0, 180, BINS + 1))


def bond_angles(ensemble: Ensemble, cutoff: float) -> FloatArray:
    """(B, 360) share of the angles i-j-k in bins of 0.5 degrees, over all atoms j with bonds shorter than `cutoff`.

    Structures without any angle have zeros. An angle at a bond of no length counts as 90 degrees; of an atom with more
    than 24 bonds the shortest 24 count.

    Args:
        ensemble: B structures.
        cutoff: Å; see :func:`bond_cutoff`.

    Raises:
        InputError: for a cut-off that is not positive.
    """
    if not cutoff > 0:
        raise InputError(f"the longest bond is {cutoff} Å; expected a positive length")
    size = max(1, _CHUNK // len(ensemble.numbers) ** 2)
    parts = [ensemble.batch[at : at + size] for at in range(0, len(ensemble), size)]
    counts = np.concatenate([_counts(Ensemble(part, like=ensemble), cutoff) for part in parts])
    total = counts.sum(axis=1, keepdims=True)
    return np.asarray(counts / np.maximum(total, 1))


def _counts(ensemble: Ensemble, cutoff: float) -> FloatArray:
    """(B, 360) number of angles."""
    width = len(ensemble.numbers)
    counts = np.zeros((len(ensemble), BINS))
    found = list(close_pairs(ensemble, cutoff))
    if not found:
        return counts
    row, first, second, vector = (np.concatenate(column) for column in zip(*found, strict=True))
    centre = np.concatenate([row * width + first, row * width + second])
    bonds = np.concatenate([vector, -vector])
    length = np.linalg.norm(bonds, axis=1)
    order = np.lexsort((length, centre))
    centre, bonds = centre[order], bonds[order] / np.maximum(length[order], 1e-12)[:, None]
    atoms, start, degree = np.unique(centre, return_index=True, return_counts=True)
    degree = np.minimum(degree, MOST_BONDS)
    for size in np.unique(degree[degree > 1]):
        these = np.flatnonzero(degree == size)
        upper = np.triu_indices(int(size), 1)
        step = max(1, _CHUNK // int(size) ** 2)
        for at in range(0, len(these), step):
            part = these[at : at + step]
            unit = bonds[start[part][:, None] + np.arange(size)]
            cosine = np.einsum("mix,mjx->mij", unit, unit)[:, upper[0], upper[1]]
            angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
            # Nudged up, so that exact angles (60, 90, ...) do not fall to either side of an edge by rounding.
            place = np.minimum(((angle + 1e-6) * (BINS / 180)).astype(np.int64), BINS - 1)
            structure = np.broadcast_to((atoms[part] // width)[:, None], place.shape)
            flat = (structure * BINS + place).ravel()
            counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)
    return counts
