"""Are crystals stable? Energies above the convex hull of known ones, and the share that is stable, unique and novel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from megen_gym.analysis.crystal_composition import Formula, reduced_formula
from megen_gym.analysis.crystal_matching import CDVAE, Tolerance, matches, unique
from megen_gym.analysis.crystal_validity import valid_structures
from megen_gym.analysis.hull_reference import Reference, lowest_energies, without_reference
from megen_gym.errors import InputError, require
from megen_gym.structure import BoolArray, FloatArray

CUTOFF = 0.1
"""eV per atom above the hull up to which a crystal counts as stable, as in MatterGen and CrystalFormer."""

_ROUNDING = 1e-8
"""eV per atom; crystals of the hull itself are stable at a cut-off of 0."""


@dataclass(frozen=True, eq=False)
class Stability:
    """The outcome of :func:`stability` for B crystals.

    Attributes:
        e_above_hull: (B,) eV per atom, below zero under the hull; NaN where there is no energy.
        stable: (B,) whether that is at most the cut-off; what has no energy is not stable.
        sun: (B,) whether the crystal is stable and valid, equals no such one before it, and none that was known.
    """

    e_above_hull: FloatArray
    stable: BoolArray
    sun: BoolArray

    @property
    def share_stable(self) -> float:
        """Part of all crystals, 0-1; NaN for none."""
        return float(self.stable.mean()) if len(self.stable) else float("nan")

    @property
    def share_sun(self) -> float:
        """Part of all crystals that is stable, unique and novel, 0-1; NaN for none."""
        return float(self.sun.mean()) if len(self.sun) else float("nan")


def energies_above_hull(crystals: Sequence[Atoms], energies: ArrayLike, reference: Reference) -> FloatArray:
    """(B,) eV per atom by which crystals lie above the convex hull of the energies of a reference.

    The hull is the lowest energy that a mixture of reference crystals of the same composition has (pymatgen's
    PhaseDiagram; Ong et al., Chem. Mater. 20, 1798 (2008)). The crystals themselves are no part of it: a negative
    number is a crystal that all mixtures of the reference would react to. All energies must come from one method.

    Args:
        crystals: B crystals.
        energies: (B,) eV, of all atoms of each.
        reference: Known crystals or formulas with their energies (eV); those without a finite energy are left out.

    Returns:
        NaN for crystals whose energy is not finite.

    Raises:
        InputError: if pymatgen is missing, for other than one energy per crystal, a formula that is none, or an element
            of a crystal with an energy of which the reference has no pure crystal.

    >>> known = [("Na", -1.0), ("Cl2", -4.0), ("NaCl", -7.0)]
    >>> energies_above_hull([Atoms("NaCl"), Atoms("Na2Cl2")], [-6.0, -15.0], known).tolist()
    [0.5, -0.25]
    """
    total = np.asarray(energies, dtype=np.float64)
    if total.shape != (len(crystals),):
        raise InputError(f"energies of shape {total.shape} were given for {len(crystals)} crystals; give one for each")
    used = np.flatnonzero(np.isfinite(total)).tolist()
    lowest = lowest_energies(reference)
    if missing := set().union(*without_reference([crystals[row] for row in used], reference)):
        raise InputError(
            f"the reference has no energy of pure {', '.join(sorted(missing))}, above which the hull begins; add a "
            "crystal of each element, or leave the crystals that contain it out"
        )
    above = np.full(len(crystals), np.nan)
    diagrams: dict[frozenset[str], Any] = {}
    for row in used:
        formula = reduced_formula(crystals[row])
        system = frozenset(symbol for symbol, _ in formula)
        if not system:
            continue
        if system not in diagrams:
            diagrams[system] = _diagram(system, lowest)
        above[row] = total[row] / len(crystals[row]) - _hull(diagrams[system], formula)
    return above


def stability(
    crystals: Sequence[Atoms],
    energies: ArrayLike,
    reference: Reference,
    known: Sequence[Atoms] = (),
    *,
    cutoff: float = CUTOFF,
    tolerance: Tolerance = CDVAE,
    progress: bool = False,
) -> Stability:
    """How many crystals are stable, and how many of those are also unique and novel (S.U.N.).

    As MatterGen defines it (Zeni et al., Nature 639, 624 (2025)), but with the comparison of
    :func:`~megen_gym.analysis.crystal_matching.unique` and of :func:`~megen_gym.analysis.crystal_matching.matches`, and
    with one further demand: :func:`~megen_gym.analysis.crystal_validity.valid_structures`, as some calculators give
    atoms on top of each other a very low energy.

    Args:
        crystals: B crystals, periodic in three directions; relaxed ones, where the energies are those.
        energies: (B,) eV; NaN for those without one, which are not stable.
        reference: As of :func:`energies_above_hull`, which see also for what is refused.
        known: Crystals, those of the training data, that are not novel.
        cutoff: eV per atom above the hull up to which a crystal is stable.
        tolerance: What counts as the same structure.
        progress: Show progress bars.

    Raises:
        InputError: as :func:`energies_above_hull`, or for a cut-off that is not finite.
    """
    check_cutoff(cutoff)
    above = energies_above_hull(crystals, energies, reference)
    stable = np.nan_to_num(above, nan=np.inf) <= cutoff + _ROUNDING
    low = np.flatnonzero(stable).tolist()
    rows = np.array(low, dtype=np.int64)[valid_structures([crystals[row] for row in low])]
    members = [crystals[row] for row in rows.tolist()]
    new = unique(members, tolerance=tolerance, progress=progress) == np.arange(len(rows))
    sun = np.zeros(len(crystals), dtype=bool)
    sun[rows] = new & ~matches(members, known, tolerance=tolerance, progress=progress)
    return Stability(above, stable, sun)


def check_cutoff(cutoff: float) -> None:
    """Refuse a cut-off that is no number.

    Raises:
        InputError: for one that is not finite.
    """
    if not np.isfinite(cutoff):
        raise InputError(f"the cut-off is {cutoff} eV per atom above the hull; give a finite number, e.g. {CUTOFF}")


def _diagram(system: frozenset[str], lowest: dict[Formula, float]) -> Any:
    """Of the compositions that have no other elements."""
    try:
        from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
        from pymatgen.core import Composition
    except ImportError:
        require("pymatgen", "crystals")
    inside = {formula: energy for formula, energy in lowest.items() if system.issuperset(dict(formula))}
    entries = [PDEntry(Composition(dict(f)), energy * sum(dict(f).values())) for f, energy in inside.items()]
    return PhaseDiagram(entries)


def _hull(diagram: Any, formula: Formula) -> float:
    """eV per atom."""
    from pymatgen.core import Composition

    return float(diagram.get_hull_energy_per_atom(Composition(dict(formula))))
