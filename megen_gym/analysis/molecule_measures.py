"""Sets of valid molecules, numbers that compare two of them, and draws of real molecules behind the floors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from megen_gym.analysis.metrics import wasserstein
from megen_gym.analysis.molecule_geometry import Internal, internal, mmd, weighted
from megen_gym.analysis.molecule_rings import element_counts, jensen_shannon, of_kinds, ring_counts
from megen_gym.analysis.molecule_validity import Validity
from megen_gym.structure import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class MoleculeSet:
    """Valid molecules and what is counted of them."""

    atoms: list[Atoms]
    keys: list[str | None]
    elements: IntArray
    rings: IntArray
    internal: Internal

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def sizes(self) -> FloatArray:
        return np.asarray(self.elements.sum(axis=1), dtype=np.float64)

    def of(self, rows: IntArray) -> MoleculeSet:
        some = rows.tolist()
        return MoleculeSet(
            [self.atoms[row] for row in some], [self.keys[row] for row in some], self.elements[rows],
            self.rings[rows], self.internal.of(rows),
        )  # fmt: skip


def valid_ones(structures: Sequence[Atoms], verdict: Validity, names: Sequence[str | None]) -> MoleculeSet:
    rows = np.flatnonzero(verdict.valid).tolist()
    atoms, readings = [structures[row] for row in rows], [verdict.readings[row] for row in rows]
    chosen = [names[row] for row in rows]
    return MoleculeSet(atoms, chosen, element_counts(atoms), ring_counts(readings), internal(atoms, readings))


WIDTH = "Wasserstein-1 distance"
DIVERGENCE = "Jensen-Shannon divergence"
Measure = Callable[[MoleculeSet, MoleculeSet], float]
MEASURES: dict[str, tuple[str, Measure, str]] = {
    "JS elements": (
        "bit", lambda a, b: jensen_shannon(a.elements.sum(0), b.elements.sum(0)), f"{DIVERGENCE} of the elements"
    ),
    "W1 size": (
        "atoms", lambda a, b: wasserstein(a.sizes, b.sizes) if len(a) and len(b) else np.nan,
        f"{WIDTH} of the numbers of atoms",
    ),
    "JS rings": (
        "bit", lambda a, b: jensen_shannon(a.rings[:, :6].sum(0), b.rings[:, :6].sum(0)),
        f"{DIVERGENCE} of the sizes of rings",
    ),
    "W1 bonds": (
        "Å", lambda a, b: weighted(a.internal.bonds, b.internal.bonds),
        f"{WIDTH} of bond lengths by elements and order, mean over kinds weighted as they occur in the data",
    ),
    "MMD bonds": (
        "", lambda a, b: weighted(a.internal.bonds, b.internal.bonds, mmd),
        "squared maximum mean discrepancy of the same under 30 Gaussian kernels, as of Symphony",
    ),
    "W1 angles": (
        "°", lambda a, b: weighted(a.internal.angles, b.internal.angles),
        f"{WIDTH} of bond angles by the three elements, weighted likewise",
    ),
    "JS bonds": (
        "bit", lambda a, b: of_kinds(a.internal.bonds.kind, b.internal.bonds.kind), f"{DIVERGENCE} of kinds of bonds"
    ),
    "JS environments": (
        "bit", lambda a, b: of_kinds(a.internal.environments.kind, b.internal.environments.kind),
        f"{DIVERGENCE} of atoms by element and bound elements",
    ),
}  # fmt: skip


Pairs = Sequence[tuple[MoleculeSet, MoleculeSet]]
"""Real molecules in the place of the samples, and those that they are compared with."""


def draws(
    own: MoleculeSet, data: MoleculeSet, other: MoleculeSet | None, repeats: int, random: np.random.Generator
) -> Pairs:
    wanted = len(own) or len(data)
    pairs = []
    for _ in range(repeats):
        if other is not None:
            pairs.append((other.of(np.sort(random.permutation(len(other))[:wanted])), data))
        else:
            order = random.permutation(len(data))
            first = min(wanted, len(data) // 2)
            pairs.append((data.of(np.sort(order[:first])), data.of(np.sort(order[first:]))))
    return pairs
