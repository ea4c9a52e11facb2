"""Properties of molecules by GFN-xTB, as functions from molecules to numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree
from tqdm import tqdm

from megen_gym.errors import InputError, nearest, require
from megen_gym.structure import FloatArray

Property = Callable[[Sequence[Atoms]], FloatArray]
"""From M molecules to (M,) numbers, NaN where there is none."""

UNITS = {"gap": "eV", "homo": "eV", "lumo": "eV", "energy": "eV", "energy_per_atom": "eV/atom", "dipole": "e Å"}
"""What :func:`xtb_property` knows, and its units."""


def xtb_property(name: str = "gap", method: str = "GFN2-xTB", *, progress: bool = False) -> Property:
    """A function that computes a property of neutral molecules at their given geometry, about 12 ms each.

    Extended tight binding (Bannwarth et al., J. Chem. Theory Comput. 2019, 15, 1652) by tblite. Molecules with an odd
    number of electrons count as doublets; their gap is that between the highest orbital with an electron and the next.

    Args:
        name: ``gap``, ``homo``, ``lumo`` (orbital energies, eV), ``energy`` (eV), ``energy_per_atom`` (eV/atom) or
            ``dipole`` (its length, e Å).
        method: ``GFN2-xTB``, ``GFN1-xTB`` or ``IPEA1-xTB``.
        progress: Show a progress bar.

    Returns:
        From M molecules to (M,) numbers; NaN where the calculation fails.

    Raises:
        InputError: for an unknown name or method, or where tblite is missing.
    """
    if name not in UNITS:
        raise InputError(f"unknown property {name!r}; {nearest(name, UNITS)}")
    methods = ("GFN2-xTB", "GFN1-xTB", "IPEA1-xTB")
    if method not in methods:
        raise InputError(f"unknown method {method!r}; {nearest(method, methods)}")
    try:
        from tblite.interface import Calculator
    except ImportError:
        require("tblite", "xtb")

    def values(structures: Sequence[Atoms]) -> FloatArray:
        found = np.full(len(structures), np.nan)
        bar = tqdm(structures, desc=f"{name} by {method}", unit="molecule", disable=not progress)
        for row, atoms in enumerate(bar):
            if len(atoms) and (atoms.numbers > 0).all() and np.isfinite(atoms.positions).all():
                found[row] = _one(Calculator, name, method, atoms)
        return found

    return values


def _one(calculator: Any, name: str, method: str, atoms: Atoms) -> float:
    try:
        job = calculator(method, atoms.numbers, atoms.positions / Bohr, uhf=int(atoms.numbers.sum()) % 2)
        job.set("verbosity", 0)
        result = job.singlepoint()
    except (RuntimeError, ValueError, TypeError):
        return float("nan")
    if name.startswith("energy"):
        energy = float(result.get("energy")) * Hartree
        return energy / len(atoms) if name == "energy_per_atom" else energy
    if name == "dipole":
        return float(np.linalg.norm(result.get("dipole")) * Bohr)
    energies, occupation = (np.asarray(result.get(f"orbital-{what}")) for what in ("energies", "occupations"))
    levels, filled = np.atleast_2d(energies)[0], np.atleast_2d(occupation).sum(axis=0)
    highest = int(np.flatnonzero(filled >= 0.5)[-1])
    if name == "homo":
        return float(levels[highest]) * Hartree
    if highest + 1 == len(levels):
        return float("nan")
    lowest = float(levels[highest + 1]) * Hartree
    return lowest if name == "lumo" else lowest - float(levels[highest]) * Hartree
