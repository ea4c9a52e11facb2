"""Bond lengths, bond angles and atomic environments of molecules, kind by kind, and how far two sets are apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from megen_gym.analysis.metrics import wasserstein
from megen_gym.analysis.molecule_bonds import Reading
from megen_gym.structure import FloatArray, IntArray

GAMMAS = np.logspace(-3, 3, 30)
"""1/Å², of the kernels whose sum :func:`mmd` takes; Symphony's."""

GRID = 0.001
"""Å, to which :func:`mmd` rounds lengths."""

LEAST = 20
"""Values of a kind that either set must have before its distributions are compared."""


@dataclass(frozen=True, eq=False)
class Kinds:
    """Values that belong to kinds, of all molecules in one list.

    Attributes:
        kind: (K,) code, see :func:`bonds` and :func:`angles`.
        value: (K,) Å or degrees.
        molecule: (K,) whose value it is, a row of the molecules.
    """

    kind: IntArray
    value: FloatArray
    molecule: IntArray

    def of(self, rows: IntArray) -> Kinds:
        """Those of some molecules only."""
        keep = np.isin(self.molecule, rows)
        return Kinds(self.kind[keep], self.value[keep], self.molecule[keep])


@dataclass(frozen=True, eq=False)
class Internal:
    """All internal coordinates of M molecules.

    Attributes:
        bonds: Lengths, Å, by both elements and the order.
        angles: Degrees, by the element in the middle and those at the ends.
        environments: Kinds of atoms by element and the elements bound to it; without values (NaN).
    """

    bonds: Kinds
    angles: Kinds
    environments: Kinds

    def of(self, rows: IntArray) -> Internal:
        """Those of some molecules only."""
        return Internal(self.bonds.of(rows), self.angles.of(rows), self.environments.of(rows))


def internal(structures: Sequence[Atoms], readings: Sequence[Reading]) -> Internal:
    """Bond lengths, bond angles and environments of molecules.

    Args:
        structures: M molecules.
        readings: (M,) their bonds; a molecule without bonds contributes its environments alone.
    """
    sizes = np.array([len(atoms) for atoms in structures], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    molecule = np.repeat(np.arange(len(structures)), sizes)
    numbers = np.concatenate([np.zeros(0, dtype=np.int64), *(atoms.numbers for atoms in structures)])
    positions = np.concatenate([np.zeros((0, 3)), *(atoms.positions for atoms in structures)])
    rows = np.repeat(np.arange(len(readings)), [len(reading.bonds) for reading in readings])
    table = np.array([bond for reading in readings for bond in reading.bonds], dtype=np.float64).reshape(-1, 3)
    ends = table[:, :2].astype(np.int64) + offsets[rows][:, None]
    order = np.rint(2 * table[:, 2]).astype(np.int64)
    low, high = np.sort(numbers[ends], axis=1).T
    length = np.linalg.norm(positions[ends[:, 1]] - positions[ends[:, 0]], axis=1)
    lengths = Kinds((low * 128 + high) * 16 + order, length, rows)
    centre, first, second = _neighbour_pairs(np.concatenate([ends, ends[:, ::-1]]))
    one, other = positions[first] - positions[centre], positions[second] - positions[centre]
    norm = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = np.einsum("ij,ij->i", one, other) / np.maximum(norm, 1e-300)
    low, high = np.sort(numbers[np.stack([first, second], axis=1)], axis=1).T
    degrees = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    corners = Kinds((low * 128 + numbers[centre]) * 128 + high, degrees, molecule[centre])
    around = Kinds(_environments(numbers, ends), np.full(len(numbers), np.nan), molecule)
    return Internal(lengths, corners, around)


def _neighbour_pairs(directed: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Centre, first and second atom of each pair of bonds of one atom, from directed bonds (2K, 2)."""
    directed = directed[np.argsort(directed[:, 0], kind="stable")]
    centres, starts, degrees = np.unique(directed[:, 0], return_index=True, return_counts=True)
    parts = [np.zeros((0, 3), dtype=np.int64)]
    for degree in np.unique(degrees[degrees > 1]).tolist():
        rows = np.flatnonzero(degrees == degree)
        neighbours = directed[starts[rows][:, None] + np.arange(degree), 1]
        first, second = np.triu_indices(degree, 1)
        middle = np.broadcast_to(centres[rows][:, None], (len(rows), len(first)))
        parts.append(np.stack([middle, neighbours[:, first], neighbours[:, second]], axis=2).reshape(-1, 3))
    centre, first, second = np.concatenate(parts).T
    return centre, first, second


def _environments(numbers: IntArray, ends: IntArray) -> IntArray:
    """(N,) code of an atom's element and of those bound to it: random 62-bit weights of the elements, summed."""
    weights = np.random.default_rng(0).integers(0, 1 << 62, size=(2, len(chemical_symbols)), dtype=np.int64)
    code: IntArray = weights[0, numbers]
    with np.errstate(over="ignore"):
        np.add.at(code, ends.ravel(), weights[1, numbers[ends[:, ::-1]]].ravel())
    return code


def bond_name(kind: int) -> str:
    """What a kind of bonds is called.

    >>> bond_name((6 * 128 + 8) * 16 + 4), bond_name((6 * 128 + 6) * 16 + 3)
    ('C=O', 'C:C')
    """
    pair, order = divmod(kind, 16)
    sign = {2: "-", 3: ":", 4: "=", 6: "#"}.get(order, f"({order / 2:g})")
    return sign.join(_hydrogen_last(*divmod(pair, 128)))


def angle_name(kind: int) -> str:
    """What a kind of angles is called.

    >>> angle_name((1 * 128 + 6) * 128 + 8)
    'O-C-H'
    """
    rest, last = divmod(kind, 128)
    first, centre = divmod(rest, 128)
    one, other = _hydrogen_last(first, last)
    return f"{one}-{chemical_symbols[centre]}-{other}"


def _hydrogen_last(*numbers: int) -> list[str]:
    return [chemical_symbols[number] for number in sorted(numbers, key=lambda number: (number == 1, number))]


def mmd(first: FloatArray, second: FloatArray) -> float:
    """Squared maximum mean discrepancy of two sets of lengths, under a sum of 30 Gaussian kernels.

    Kernels exp(-γ d²) with γ from 0.001 to 1000 Å⁻² (Gretton et al., JMLR 2012, 13, 723, eq. 5; Daigavane et al.,
    Symphony, ICLR 2024, arXiv 2311.16199). All values count, rounded to 0.001 Å, where the published code draws
    batches; the result is therefore exact and has no noise.

    Args:
        first: (K,) Å.
        second: (L,) Å.
    """
    low = min(first.min(), second.min())
    size = int(np.rint((max(first.max(), second.max()) - low) / GRID)) + 1
    bins = [np.rint((values - low) / GRID).astype(np.int64) for values in (first, second)]
    p, q = (np.bincount(index, minlength=size) / len(index) for index in bins)
    distances = np.arange(size) * GRID
    kernel = np.exp(-GAMMAS[:, None] * distances**2).sum(axis=0)
    overlap = np.fft.irfft(np.abs(np.fft.rfft(p - q, 2 * size)) ** 2, 2 * size)[:size]
    return float(max(kernel[0] * overlap[0] + 2 * kernel[1:] @ overlap[1:], 0.0))


Distance = Callable[[FloatArray, FloatArray], float]


def by_kind(first: Kinds, second: Kinds, distance: Distance = wasserstein, least: int = LEAST) -> dict[int, float]:
    """The distance for each kind of which both sets have at least `least` values."""
    parts = [_split(kinds, least) for kinds in (first, second)]
    return {kind: distance(parts[0][kind], parts[1][kind]) for kind in sorted(parts[0].keys() & parts[1].keys())}


def weighted(first: Kinds, second: Kinds, distance: Distance = wasserstein, least: int = LEAST) -> float:
    """Mean of :func:`by_kind`, each kind weighted by how often it occurs in `second`; NaN where no kind is common."""
    distances = by_kind(first, second, distance, least)
    kinds, counts = np.unique(second.kind, return_counts=True)
    weights = counts[np.searchsorted(kinds, list(distances))] if distances else np.zeros(0)
    return float(weights @ np.array(list(distances.values())) / weights.sum()) if len(weights) else float("nan")


def _split(kinds: Kinds, least: int) -> dict[int, FloatArray]:
    order = np.argsort(kinds.kind, kind="stable")
    names, starts = np.unique(kinds.kind[order], return_index=True)
    parts = np.split(kinds.value[order], starts[1:])
    return {kind: part for kind, part in zip(names.tolist(), parts, strict=False) if len(part) >= least}
