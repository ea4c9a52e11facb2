"""Relax crystals, cell and positions, with any ASE calculator; one that fails costs itself, not the others."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from megen_gym.analysis.crystal_validity import require_periodic
from megen_gym.analysis.relax import Relaxed, calculator_factory
from megen_gym.errors import InputError

FMAX = 0.05
"""eV/Å at which a relaxation has converged, for forces and (as of ASE's filter) stresses."""

SYMPREC = 0.01
"""Å, within which the symmetry that is kept is looked for."""


def relax_crystals(
    crystals: Sequence[Atoms],
    calculator: str,
    kwargs: Mapping[str, Any] | None = None,
    *,
    steps: int = 200,
    fmax: float = FMAX,
    keep_symmetry: bool = True,
    progress: bool = True,
    label: str = "crystals",
) -> list[Relaxed]:
    """Relax cell and positions by FIRE in ASE's FrechetCellFilter; the input is not touched.

    One calculator serves all crystals, made anew after a failure, so that a model is loaded once. It runs in this
    process: one that hangs or kills its process ends the run.

    Args:
        crystals: B crystals, periodic in three directions.
        calculator: Short name or import path as in :func:`~megen_gym.analysis.relax.calculator_factory`; for steps
            above 0 it must know stresses.
        kwargs: Its arguments.
        steps: Most steps of the optimiser; 0 computes the energies of the crystals as they are.
        fmax: eV/Å; a relaxation has converged when all forces are below this.
        keep_symmetry: Hold the space group by ase.constraints.FixSymmetry; without it, noise may lower it.
        progress: Show a progress bar.
        label: What they are, for the bar.

    Returns:
        One :class:`~megen_gym.analysis.relax.Relaxed` per crystal, energies in eV per cell; where `error` is set, the
        crystal is the one that was given.

    Raises:
        InputError: for a calculator that cannot be made, values out of range, or a crystal that is not periodic.
    """
    from tqdm import tqdm

    if not fmax > 0 or steps < 0:
        raise InputError(f"fmax {fmax} and steps {steps} do not describe a relaxation; give fmax > 0 and steps >= 0")
    require_periodic(crystals)
    factory = calculator_factory(calculator, kwargs)
    engine = None
    results = []
    for atoms in tqdm(crystals, desc=f"{label} with {calculator}", unit="crystal", disable=not progress):
        work, seen = atoms.copy(), {"before": np.nan, "steps": 0}  # type: ignore[no-untyped-call]
        work.set_constraint()
        try:
            engine = factory() if engine is None else engine
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results.append(_relax(atoms, work, engine, steps, fmax, keep_symmetry, seen))
        except (Exception, SystemExit) as error:  # calculators raise anything, and some call sys.exit
            engine = None
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            results.append(Relaxed(atoms, seen["before"], np.nan, int(seen["steps"]), False, why))
    return results


def primitive_cells(crystals: Sequence[Atoms]) -> list[Atoms]:
    """The same crystals with as few atoms as they can be described by, which cost less; no info, no constraints.

    Nothing is rotated. A crystal in which spglib finds no smaller cell within 0.01 Å stays as it is.

    >>> from ase.build import bulk
    >>> [len(atoms) for atoms in primitive_cells([bulk("Cu", cubic=True), bulk("Si")])]
    [1, 2]
    """
    import spglib

    found = []
    for atoms in crystals:
        smaller = None
        if len(atoms) and np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cell = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
                smaller = spglib.standardize_cell(cell, to_primitive=True, no_idealize=True, symprec=SYMPREC)
        if smaller is None or len(smaller[2]) >= len(atoms):
            found.append(atoms)
        else:
            found.append(Atoms(numbers=smaller[2], scaled_positions=smaller[1], cell=smaller[0], pbc=True))
    return found


def rmsd(before: Atoms, after: Atoms) -> float:
    """Å, root mean square displacement of the atoms of a crystal by its relaxation, the same order of atoms.

    It is measured in fractional coordinates, the mean displacement taken out, and the cell of `after`: what the cell
    itself did does not count. Each atom takes the shortest of the ways along the cell vectors.

    >>> from ase.build import bulk
    >>> crystal = bulk("NaCl", "rocksalt", a=5.0)
    >>> moved = crystal.copy()
    >>> moved.positions[0, 0] += 0.2
    >>> round(rmsd(crystal, moved), 6)
    0.1
    """
    old, new = (np.linalg.solve(atoms.cell.array.T, atoms.positions.T).T for atoms in (before, after))
    change = new - old
    change -= np.round(change)
    change -= change[0]
    change -= np.round(change)
    change -= change.mean(0)
    return float(np.sqrt(((change @ after.cell.array) ** 2).sum(1).mean()))


def _relax(
    atoms: Atoms, work: Any, calculator: Any, steps: int, fmax: float, keep_symmetry: bool, seen: dict[str, float]
) -> Relaxed:
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.constraints import FixSymmetry
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    if not (len(work) and np.isfinite(work.positions).all() and np.isfinite(work.cell.array).all()):
        raise ValueError("the crystal has no atoms, or positions or a cell that are not finite")
    work.calc = calculator
    seen["before"] = energy = _finite(work.get_potential_energy())
    converged, results = True, {}
    if steps:
        if keep_symmetry:
            work.set_constraint(FixSymmetry(work, symprec=SYMPREC))  # type: ignore[no-untyped-call]
        optimiser = FIRE(FrechetCellFilter(work), logfile=None)  # type: ignore[no-untyped-call, arg-type]
        for reached in optimiser.irun(fmax=fmax, steps=steps):  # type: ignore[no-untyped-call]
            seen["steps"], converged = optimiser.nsteps, bool(reached)
        energy = _finite(work.get_potential_energy())
        results = {"forces": work.get_forces()}
        if not (np.isfinite(work.positions).all() and np.isfinite(work.cell.array).all()):
            raise ValueError("the relaxation ended at positions or a cell that are not finite")
    result: Any = atoms.copy()  # type: ignore[no-untyped-call]
    result.set_constraint()
    result.cell, result.positions = work.cell.array, work.positions
    result.info.pop("energy", None)
    result.calc = SinglePointCalculator(result, energy=energy, **results)  # type: ignore[no-untyped-call]
    return Relaxed(result, seen["before"], energy, int(seen["steps"]), converged)


def _finite(energy: float) -> float:
    if not np.isfinite(energy):
        raise ValueError(f"the calculator gave an energy of {energy} eV")
    return float(energy)
