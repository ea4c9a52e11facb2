"""Is a cluster one piece of sensible chemistry? Vectorised over structures."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.data import atomic_numbers, covalent_radii

from megen_gym.errors import InputError
from megen_gym.rules import GALLIUM_WINDOWS, PlacementRules, pair_distances
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch

COVALENT = (0.75, 1.3)
"""Pairs other than Ga-Ga: closest approach and longest bond, in sums of covalent radii (Cordero, Dalton Trans. 2008,
2832). The short bonds of light molecules pass (N2 0.77, C2H2 0.79), and metals, whose bonds are 1.0-1.15."""

_CHUNK = 2_000_000
"""Pairs that are looked at together."""


def valid_clusters(batch: StructureBatch, rules: PlacementRules | None = None) -> BoolArray:
    """(B,) whether a cluster has none of the :func:`cluster_faults`.

    >>> from ase import Atoms
    >>> trimer = Atoms("Ga3", [[0, 0, 0], [2.6, 0, 0], [1.3, 2.25, 0]])
    >>> broken = Atoms("Ga3", [[0, 0, 0], [2.6, 0, 0], [9.0, 0, 0]])
    >>> valid_clusters(StructureBatch.from_atoms([trimer, broken])).tolist()
    [True, False]
    """
    valid: BoolArray = ~np.any(list(cluster_faults(batch, rules).values()), axis=0)
    return valid


def cluster_faults(batch: StructureBatch, rules: PlacementRules | None = None) -> dict[str, BoolArray]:
    """(B,) whether a cluster is ``"empty"``, has an ``"overlap"``, is ``"disconnected"``, or holds ``"loose"`` atoms.

    With gallium's windows: no pair closer than 2.3 Å (overlap); one piece under bonds of at most 3.1 Å (disconnected);
    every atom has a neighbour within 3.1 Å, a second within 3.0 Å where there are three atoms, and a third within 5.5 Å
    where there are four (loose). A single atom is valid.

    Args:
        batch: Clusters or molecules.
        rules: Windows to judge by; by default gallium's for structures of gallium alone, and for all others bonds
            between 0.75 and 1.3 sums of covalent radii, without second and third windows.

    Raises:
        InputError: for periodic structures.
    """
    if any(batch.pbc):
        raise InputError("the structures are periodic; this check is for clusters and molecules without a cell")
    low, high = _pair_windows(batch.symbols, rules)
    windows = GALLIUM_WINDOWS if rules is None else rules.windows
    bounded: Any = (batch.numbers == 31) | ~batch.mask if rules is None else np.ones_like(batch.mask)
    limits = [limit for _, limit in windows[1:]]
    size = max(1, _CHUNK // max(1, batch.positions.shape[1] ** 2))
    parts = [
        _faults(batch.positions[at : at + size], batch.species[at : at + size], low, high, limits,
                bounded[at : at + size].all(axis=1))
        for at in range(0, len(batch), size)
    ]  # fmt: skip
    empty = [np.zeros((4, 0), dtype=bool)]
    return dict(zip(("empty", "overlap", "disconnected", "loose"), np.concatenate(parts or empty, axis=1), strict=True))


def _pair_windows(symbols: tuple[str, ...], rules: PlacementRules | None) -> tuple[FloatArray, FloatArray]:
    """(S, S) Å closest approach and longest bond between two species."""
    count = len(symbols)
    if rules is not None:
        low, high = rules.windows[0] if rules.windows else (rules.min_distance, rules.max_distance)
        return np.full((count, count), low), np.full((count, count), high)
    radii = covalent_radii[[atomic_numbers[name] for name in symbols]]
    bond = radii[:, None] + radii
    lows, highs = COVALENT[0] * bond, COVALENT[1] * bond
    gallium = np.array(symbols) == "Ga"
    both = gallium[:, None] & gallium
    lows[both], highs[both] = GALLIUM_WINDOWS[0]
    return lows, highs


def _faults(
    positions: FloatArray,
    species: IntArray,
    low: FloatArray,
    high: FloatArray,
    limits: list[float],
    bounded: BoolArray,
) -> BoolArray:
    """(4, B): empty, overlap, disconnected, loose."""
    mask = species > 0
    n_atoms = mask.sum(axis=1)
    distances = pair_distances(np.asarray(positions, dtype=np.float64), mask)
    pair = species[:, :, None], species[:, None]
    overlap = (distances < low[pair]).any(axis=(1, 2))
    bonds = distances <= high[pair]
    loose = (mask & ~bonds.any(axis=2)).any(axis=1) & (n_atoms > 1)
    for k, limit in enumerate(limits, start=2):
        near = (distances <= limit).sum(axis=2) >= k
        loose |= (mask & ~near).any(axis=1) & (n_atoms > k) & bounded
    return np.stack([n_atoms == 0, overlap, ~_connected(bonds, mask), loose])


def _connected(bonds: BoolArray, mask: BoolArray) -> BoolArray:
    """(B,) whether the atoms hang together, by squaring the matrix of reachable atoms until it spans all paths."""
    width = mask.shape[1]
    if width == 0:
        return np.ones(len(mask), dtype=bool)
    reach = (bonds | np.eye(width, dtype=bool)).astype(np.float32)
    for _ in range(max(width - 1, 1).bit_length()):
        reach = (reach @ reach > 0).astype(np.float32)
    connected: BoolArray = np.asarray(np.all((reach[:, 0] > 0) | ~mask, axis=1))
    return connected
