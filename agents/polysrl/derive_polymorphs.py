"""The bundled polymorphs, made up: ``python -m megen_gym.agents.polysrl.derive_polymorphs`` (needs pymatgen).

Prototypes of the AFLOW library (Mehl et al., Comput. Mater. Sci. 136, S1, 2017), as pymatgen ships them, are decorated
with ions of matching charge in every way, scaled to the volume of the lowest energy in the model of
:mod:`megen_gym.agents.polysrl.ionic`, and kept where they lie close to the lowest structure of their composition. Shape
and coordinates stay those of the prototype; there is no relaxation and no quantum mechanics in any of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from megen_gym.agents.polysrl.ionic import Motif, minimum, motif
from megen_gym.agents.polysrl.ions import TYPES, Composition, compositions, formula_of
from megen_gym.agents.polysrl.polymorphs import BUNDLE, WINDOW, Polymorphs, write_polymorphs
from megen_gym.prototypes import aflow_prototypes
from megen_gym.structure import FloatArray, IntArray

LARGEST = 14
"""Atoms of a prototype's cell; spinel has as many."""

CLOSEST = 0.6
"""Of the sum of the radii: structures with ions nearer than that are left out."""

SAME_ENERGY, SAME_SCALE = 0.002, 0.01
"""eV/atom, and share of the cube root of the volume; a composition's structures that agree in both count as one."""


@dataclass(frozen=True, eq=False)
class Prototype:
    """AFLOW's label, the pymatgen structure, the role (N,) of each site and how many sites have each role."""

    label: str
    structure: Any
    roles: IntArray
    counts: tuple[int, ...]


@lru_cache(maxsize=1)
def prototypes() -> tuple[Prototype, ...]:
    """Those of two or three elements and at most LARGEST atoms; a label that comes again is numbered.

    Raises:
        InputError: where pymatgen is not installed.
    """
    found: list[Prototype] = []
    seen: dict[str, int] = defaultdict(int)
    for label, structure in aflow_prototypes():
        if len(structure) > LARGEST:
            continue
        _, roles, counts = np.unique(structure.atomic_numbers, return_inverse=True, return_counts=True)
        if len(counts) in (2, 3):
            seen[label] += 1
            name = label if seen[label] == 1 else f"{label}.{seen[label]}"
            found.append(Prototype(name, structure, roles, tuple((counts // np.gcd.reduce(counts)).tolist())))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Decorated:
    """Structures of one prototype: rows of the compositions, energy (D,) in eV/atom, scale (D,), ions by role."""

    prototype: Prototype
    rows: list[int]
    energy: FloatArray
    scale: FloatArray
    ions: list[Composition]


def decorate(kind: str, chosen: list[Composition]) -> Iterator[Decorated]:
    """Every prototype of a formula type with every composition in every assignment, where no ions overlap."""
    counts = TYPES[kind][0]
    by_charge: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, composition in enumerate(chosen):
        by_charge[tuple(ion.charge for ion in composition)].append(row)
    for prototype in prototypes():
        if sorted(prototype.counts) != sorted(counts):
            continue
        known: dict[tuple[int, ...], Motif | None] = {}
        for order in permutations(range(len(counts))):
            if tuple(counts[place] for place in order) != prototype.counts:
                continue
            for charge, rows in by_charge.items():
                wanted = tuple(charge[place] for place in order)
                if wanted not in known:
                    known[wanted] = motif(prototype.structure, prototype.roles, wanted)
                found = known[wanted]
                if found is None:
                    continue
                taken = [tuple(chosen[row][place] for place in order) for row in rows]
                radii = np.array([[ion.radius for ion in composition] for composition in taken])
                energy, scale, least = minimum(found, radii)
                fine = np.flatnonzero(least >= CLOSEST).tolist()
                yield Decorated(prototype, [rows[i] for i in fine], energy[fine], scale[fine], [taken[i] for i in fine])


def distinct(energy: list[float], scale: list[float]) -> list[int]:
    """Rows within the window of the first, which is the lowest, without those that count as one with an earlier."""
    kept: list[int] = []
    for row, (height, size) in enumerate(zip(energy, scale, strict=True)):
        if round(height - energy[0], 4) > WINDOW:
            break
        close = (abs(height - energy[i]) < SAME_ENERGY and abs(size / scale[i] - 1) < SAME_SCALE for i in kept)
        if not any(close):
            kept.append(row)
    return kept


def derive(kinds: Iterable[str] = tuple(TYPES)) -> Polymorphs:
    """The set of these formula types; the same at every call.

    Raises:
        InputError: where pymatgen is not installed.
    """
    names: list[str] = []
    types: list[str] = []
    structures: list[tuple[int, float, str, FloatArray, IntArray, FloatArray]] = []
    for kind in kinds:
        chosen = compositions(kind)
        candidates: list[list[tuple[float, int, str, float, float, Prototype, Composition]]] = [[] for _ in chosen]
        for found in decorate(kind, chosen):
            prototype, size = found.prototype, len(found.prototype.roles)
            length = (prototype.structure.volume / size) ** (1 / 3)
            for row, energy, scale, taken in zip(found.rows, found.energy, found.scale, found.ions, strict=True):
                height, ratio = round(float(energy), 4), float(scale)
                candidates[row].append((height, size, prototype.label, ratio * length, ratio, prototype, taken))
        for composition, options in zip(chosen, candidates, strict=True):
            if not options:
                continue
            options.sort(key=lambda option: option[:4])
            for row in distinct([option[0] for option in options], [option[3] for option in options]):
                height, _, label, _, ratio, prototype, taken = options[row]
                cell = np.round(prototype.structure.lattice.matrix * ratio, 5)
                numbers = np.array([atomic_numbers[ion.symbol] for ion in taken])[prototype.roles]
                places = np.round(prototype.structure.frac_coords, 6)
                structures.append((len(names), round(height - options[0][0], 4), label, cell, numbers, places))
            names.append(formula_of(composition, TYPES[kind][0]))
            types.append(kind)
    index, energy_above, labels, cells, elements, fractions = zip(*structures, strict=True)
    ends = np.cumsum([0] + [len(numbers) for numbers in elements])
    return Polymorphs(
        tuple(names),
        tuple(types),
        np.array(index),
        np.array(energy_above),
        tuple(labels),
        np.stack(cells),
        ends,
        np.concatenate(elements),
        np.concatenate(fractions),
    )


if __name__ == "__main__":
    BUNDLE.parent.mkdir(exist_ok=True)
    write_polymorphs(BUNDLE, derive())
