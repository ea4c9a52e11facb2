"""Crystals of known energy, of which a convex hull is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from megen_gym.analysis.crystal_composition import Formula, reduced_formula
from megen_gym.errors import InputError
from megen_gym.io import energy_of, read_structures

Reference = Sequence[tuple[Atoms | str, float]]
"""Structures or formulas, each with the energy (eV) of all the atoms in it."""


def read_reference(path: str | Path) -> list[tuple[Atoms | str, float]]:
    """Crystals of a file and their energies, eV.

    Args:
        path: What :func:`megen_gym.io.read_structures` reads, an energy stored with each structure.

    Raises:
        InputError: for a file that cannot be read, or a structure without an energy.
    """
    found: list[tuple[Atoms | str, float]] = []
    for index, atoms in enumerate(read_structures(path)):
        energy = energy_of(atoms)
        if not np.isfinite(energy):
            raise InputError(
                f"structure {index} of {path} has no energy, but the hull needs one; give structures with energies "
                "in eV, e.g. extxyz"
            )
        found.append((atoms, energy))
    return found


def lowest_energies(reference: Reference) -> dict[Formula, float]:
    """Lowest energy of each composition, eV per atom; energies that are not finite are left out.

    Raises:
        InputError: for a text that is no formula.

    >>> lowest_energies([("Cu2", -2.0), ("Cu", -3.0)])
    {(('Cu', 1),): -3.0}
    """
    lowest: dict[Formula, float] = {}
    for what, energy in reference:
        try:
            atoms = Atoms(what) if isinstance(what, str) else what
        except (KeyError, ValueError):
            raise InputError(f"the reference has {what!r}, which is no formula; give one such as Fe2O3") from None
        formula = reduced_formula(atoms)
        if formula and np.isfinite(energy):
            lowest[formula] = min(lowest.get(formula, np.inf), float(energy) / len(atoms))
    return lowest


def without_reference(crystals: Sequence[Atoms], reference: Reference) -> list[frozenset[str]]:
    """For each crystal the elements of which the reference has no pure crystal with a finite energy.

    >>> without_reference([Atoms("CuO")], [("Cu", 0.0), ("Cu2O", -1.0)])
    [frozenset({'O'})]
    """
    pure = {formula[0][0] for formula in lowest_energies(reference) if len(formula) == 1}
    return [frozenset(atoms.get_chemical_symbols()) - pure for atoms in crystals]


def inside(pool: Sequence[Atoms], judged: Sequence[Atoms]) -> list[int]:
    """Rows of the pool whose elements are all in one of the judged crystals: those that its hull is made of.

    >>> inside([Atoms("Cu"), Atoms("CuO"), Atoms("FeO")], [Atoms("CuO2"), Atoms("Fe")])
    [0, 1]
    """
    systems = {frozenset(atoms.numbers.tolist()) for atoms in judged}
    own = [frozenset(atoms.numbers.tolist()) for atoms in pool]
    useful = {elements for elements in set(own) if any(elements <= system for system in systems)}
    return [row for row, elements in enumerate(own) if elements in useful]
