"""The bundled crystals, made up: ``python -m megen_gym.agents.crystal_gpt.derive_bundle`` (needs pymatgen).

Prototypes of the AFLOW library (Mehl et al., Comput. Mater. Sci. 136, S1, 2017), as pymatgen ships them, are decorated
with other elements of a similar role, and scaled until the nearest atoms touch. None of these crystals was relaxed or
observed, many could not exist: they are there to try things out without a download, not to learn chemistry from. Where
the common oxidation states of a prototype add up to nothing, each ion is exchanged for one of the same charge and a
similar size; elsewhere each element for one of a neighbouring group of the periodic table. Takes a minute or two.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers, chemical_symbols, covalent_radii

from megen_gym.agents.crystal_gpt.data import BUNDLE
from megen_gym.agents.crystal_gpt.duplicates import first_equal
from megen_gym.agents.crystal_gpt.store import write_stored
from megen_gym.crystals import CrystalBatch, describe
from megen_gym.errors import InputError
from megen_gym.lattices import cells_of
from megen_gym.periodic import Lattice
from megen_gym.prototypes import aflow_prototypes
from megen_gym.structure import FloatArray

SEED = 0
PER_PROTOTYPE = 15
"""Crystals of each prototype at most."""

LARGEST, MOST_SITES = 24, 12
"""Atoms of the conventional cell, and sites."""

CLOSEST = 1.0
"""Å; decorations whose atoms are closer are left out."""

EMPTIEST = 0.2
"""Share of the volume that touching spheres fill at least; molecules of other elements fill less."""

NAMES = ("density", "volume_per_atom")
"""g/cm³ and Å³."""

_TRIES = 8
_LEFT_OUT = {"He", "Ne", "Ar", "Kr", "Xe", "Rn", "Tc", "Pm", "Po", "At", "Fr", "Ra", "Ac", "Pa"}
_ELEMENTS = [symbol for symbol in chemical_symbols[1:93] if symbol not in _LEFT_OUT]
_SIZE = 1.45
"""Largest ratio of the radii of an element and the one that takes its place."""

_GRAMS = 1.66053907
"""Of a dalton per Å³, in g/cm³."""


@dataclass(frozen=True, eq=False)
class Prototype:
    """A crystal to decorate: AFLOW's label, the crystal, and its elements in order."""

    label: str
    atoms: Atoms
    elements: tuple[str, ...]


@lru_cache(maxsize=1)
def prototypes() -> tuple[Prototype, ...]:
    """Those of moderate size, by label.

    Raises:
        InputError: where pymatgen is not installed.
    """
    found: dict[str, Prototype] = {}
    for label, structure in aflow_prototypes():
        if len(structure) > 4 * LARGEST:
            continue
        symbols = [site.specie.symbol for site in structure]
        atoms = Atoms(symbols, cell=structure.lattice.matrix, scaled_positions=structure.frac_coords, pbc=True)
        try:
            crystal = describe(atoms)
        except InputError:
            continue
        if crystal.n_atoms[0] <= LARGEST and crystal.n_sites[0] <= MOST_SITES:
            found.setdefault(label, Prototype(label, atoms, tuple(sorted(set(symbols)))))
    return tuple(found[label] for label in sorted(found))


def decorations(prototype: Prototype) -> Iterator[tuple[str, CrystalBatch]]:
    """Name and crystal of every decoration, the prototype's own elements first; the same at every call."""
    rng = np.random.default_rng([SEED, zlib.crc32(prototype.label.encode())])
    charges = _charges(prototype)
    choices = [_similar(symbol, charge) for symbol, charge in zip(prototype.elements, charges, strict=True)]
    if not all(choices):
        return
    seen: set[tuple[str, ...]] = set()
    taken = 0
    for attempt in range(_TRIES * PER_PROTOTYPE):
        chosen = tuple(str(rng.choice(choice)) for choice in choices) if attempt else prototype.elements
        fits = len(set(chosen)) == len(chosen) and set(chosen) <= set(_ELEMENTS) and chosen not in seen
        if not fits or taken == PER_PROTOTYPE or (any(charges) and not _polar(chosen, charges)):
            continue
        seen.add(chosen)
        crystal = _crystal(prototype, dict(zip(prototype.elements, chosen, strict=True)))
        if crystal is not None:
            taken += 1
            yield f"{prototype.label} {crystal.to_atoms()[0].get_chemical_formula('metal')}", crystal


def derive() -> tuple[CrystalBatch, FloatArray, list[str]]:
    """Crystals, their properties (B, 2) and names (B,), without duplicates."""
    made = [named for prototype in prototypes() for named in decorations(prototype)]
    crystals = CrystalBatch.join([crystal for _, crystal in made])
    kept = np.flatnonzero(first_equal(crystals) == np.arange(len(made)))
    crystals = crystals[kept]
    return crystals, properties(crystals), [made[row][0] for row in kept.tolist()]


def properties(crystals: CrystalBatch) -> FloatArray:
    """(B, 2) density in g/cm³ and volume per atom in Å³."""
    volume = np.abs(np.linalg.det(cells_of(crystals.lattice)))
    mass = (atomic_masses[crystals.elements] * crystals.multiplicity).sum(1)
    return np.round(np.stack([mass / volume * _GRAMS, volume / crystals.n_atoms], 1), 5)


@lru_cache(maxsize=128)
def _known(symbol: str) -> tuple[tuple[int, ...], int, float, bool]:
    """Common oxidation states, group, electronegativity, and whether it is a metal or metalloid."""
    from pymatgen.core import Element

    element: Any = Element(symbol)
    states = {"H": (1, -1), "N": (-3, 5), "C": (4, -4), "P": (-3, 5), "O": (-2,)}
    solid = bool(element.is_metal or element.is_metalloid)
    return states.get(symbol, element.common_oxidation_states), element.group, float(element.X), solid


def _charges(prototype: Prototype) -> tuple[int, ...]:
    """Of each element, with a sum of zero and the most electronegative as anions; all 0 if there are none."""
    counts = [list(prototype.atoms.symbols).count(symbol) for symbol in prototype.elements]
    if len(counts) < 2 or not set(prototype.elements) <= set(_ELEMENTS):
        return (0,) * len(counts)
    for states in product(*(_known(symbol)[0] for symbol in prototype.elements)):
        if 0 not in states and not np.dot(counts, states) and _polar(prototype.elements, states):
            return states
    return (0,) * len(counts)


def _polar(symbols: tuple[str, ...], charges: tuple[int, ...]) -> bool:
    """Whether every anion is clearly more electronegative than every cation."""
    strength = np.array([_known(symbol)[2] for symbol in symbols])
    sign = np.sign(charges)
    return bool(strength[sign < 0].min(initial=9) > strength[sign > 0].max(initial=0) + 0.3)


def _similar(symbol: str, charge: int) -> list[str]:
    """Elements that can take the place of one."""
    if symbol not in _ELEMENTS:
        return []
    _, group, _, solid = _known(symbol)
    radius = covalent_radii[atomic_numbers[symbol]]
    found = []
    for other in _ELEMENTS:
        states, column, _, other_solid = _known(other)
        ratio = covalent_radii[atomic_numbers[other]] / radius
        role = charge in states if charge else abs(column - group) <= 1
        if role and solid == other_solid and 1 / _SIZE <= ratio <= _SIZE:
            found.append(other)
    return found


def _crystal(prototype: Prototype, instead: dict[str, str]) -> CrystalBatch | None:
    """One decoration, scaled until no two atoms are nearer than the sum of their radii; None if it is no crystal."""
    symbols = [instead[symbol] for symbol in prototype.atoms.symbols]
    atoms = Atoms(symbols, cell=prototype.atoms.cell, positions=prototype.atoms.positions, pbc=True)
    atoms.set_cell(atoms.cell[:] * _scale(atoms), scale_atoms=True)  # type: ignore[no-untyped-call]
    filled = 4 / 3 * np.pi * (covalent_radii[atoms.numbers] ** 3).sum() / atoms.cell.volume
    if Lattice(atoms.cell[:]).nearest(atoms.positions, 1).min() < CLOSEST or filled < EMPTIEST:
        return None
    try:
        crystal = describe(atoms)
        crystal = replace(crystal, coordinates=np.round(crystal.coordinates, 6) % 1.0)
        crystal = replace(crystal, lattice=np.round(crystal.lattice, 5))
        again = describe(crystal.to_atoms()[0])
    except InputError:
        return None
    return crystal if again.group[0] == crystal.group[0] and again.n_atoms[0] == crystal.n_atoms[0] else None


def _scale(atoms: Atoms) -> float:
    """By which the nearest distance, as a share of the sum of the radii, becomes one."""
    lattice, radii = Lattice(atoms.cell[:]), covalent_radii[atoms.numbers]
    distances = lattice.distances(atoms.positions)
    np.fill_diagonal(distances, lattice.nearest(np.zeros((1, 3)), 1)[0, 0])
    return float(((radii[:, None] + radii) / distances).max())


if __name__ == "__main__":
    crystals, values, names = derive()
    BUNDLE.parent.mkdir(exist_ok=True)
    write_stored(BUNDLE, (crystals, NAMES, values, np.array(names, dtype=np.str_), ()))
