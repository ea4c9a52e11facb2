"""Relax structures with any ASE calculator; one that fails costs itself, not the others."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms

from megen_gym.errors import InputError, nearest, require
from megen_gym.structure import StructureBatch


@dataclass(frozen=True)
class Relaxed:
    """Outcome of one relaxation.

    Attributes:
        atoms: The relaxed structure with energy and forces attached; as given if `error` is set.
        before: eV at the start; NaN if it could not be computed.
        energy: eV at the end; NaN if it could not be computed.
        steps: Optimiser steps.
        converged: Whether all forces fell below fmax.
        error: Why it failed, in one line; None if it did not.
    """

    atoms: Atoms
    before: float
    energy: float
    steps: int
    converged: bool
    error: str | None = None


def calculator_factory(calculator: str, kwargs: Mapping[str, Any] | None = None) -> Callable[[], Any]:
    """A function that makes a fresh calculator; one is made here already, so that a wrong name or argument shows.

    Args:
        calculator: ``lj``, ``emt``, ``tblite`` (with the settings that the reward of that name has), or an import path
            such as ``"ase.calculators.lj.LennardJones"``.
        kwargs: Its arguments, over those of the short name.

    Raises:
        InputError: if it cannot be imported (naming the extra to install) or does not take the arguments.

    >>> calculator_factory("ase.calculators.emt.EMT")().__class__.__name__
    'EMT'
    """
    from megen_gym.rewards.calculator import PRESETS

    path, defaults, extra = PRESETS.get(calculator, (calculator, {}, None))
    module, _, name = path.rpartition(".")
    if not module:
        raise InputError(f"unknown calculator {calculator!r}; {nearest(calculator, PRESETS)}, or give an import path")
    try:
        build = getattr(importlib.import_module(module), name)
    except ImportError as error:
        if extra:
            require(module.partition(".")[0], extra)
        raise InputError(
            f"cannot import the calculator {path!r} ({error}); install its package or correct it"
        ) from None
    except AttributeError:
        raise InputError(f"{module} has no {name!r}; {nearest(name, _classes(module))}") from None
    options = {**defaults, **(kwargs or {})}
    try:
        build(**options)
    except Exception as error:
        raise InputError(
            f"the calculator {path} does not take {options} ({_line(error)}); correct the kwargs"
        ) from None
    return lambda: build(**options)


def _classes(module: str) -> list[str]:
    return [name for name, value in vars(importlib.import_module(module)).items() if isinstance(value, type)]


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def relax(
    structures: StructureBatch | Sequence[Atoms],
    calculator: str = "lj",
    kwargs: Mapping[str, Any] | None = None,
    *,
    fmax: float = 0.05,
    steps: int = 200,
    optimizer: Literal["FIRE", "BFGS"] = "FIRE",
    vacuum: float | None = None,
    progress: bool = True,
) -> list[Relaxed]:
    """Relax each structure; the input is not touched.

    Args:
        structures: A batch or a list of ``ase.Atoms``.
        calculator: As in :func:`calculator_factory`.
        kwargs: As in :func:`calculator_factory`.
        fmax: eV/Å; a relaxation has converged when all forces are below this.
        steps: Most optimiser steps per structure.
        optimizer: Of ``ase.optimize``.
        vacuum: Å around a cluster for codes that need a cell; None: no cell.
        progress: Show a progress bar.

    Returns:
        One :class:`Relaxed` per structure. A calculator that raises or returns NaN fails that structure only.

    Raises:
        InputError: for a calculator that cannot be made, or values out of range.
    """
    from tqdm import tqdm

    relaxer = relax_one(calculator, kwargs, fmax, steps, optimizer, vacuum)
    given = structures.to_atoms() if isinstance(structures, StructureBatch) else structures
    bar = tqdm(given, desc=f"relaxing with {calculator}", unit="structure", disable=not progress)
    return [relaxer(atoms) for atoms in bar]


def relax_one(
    calculator: str,
    kwargs: Mapping[str, Any] | None = None,
    fmax: float = 0.05,
    steps: int = 200,
    optimizer: str = "FIRE",
    vacuum: float | None = None,
) -> Callable[[Atoms], Relaxed]:
    """A function that relaxes one structure; arguments and errors as in :func:`relax`."""
    import ase.optimize

    if not fmax > 0 or steps < 0:
        raise InputError(f"fmax {fmax} and steps {steps} do not describe a relaxation; give fmax > 0 and steps >= 0")
    if optimizer not in ("FIRE", "BFGS"):
        raise InputError(f"unknown optimizer {optimizer!r}; {nearest(optimizer, ('FIRE', 'BFGS'))}")
    factory = calculator_factory(calculator, kwargs)
    make = getattr(ase.optimize, optimizer)
    return lambda atoms: _relax_one(atoms, factory, make, fmax, steps, vacuum)


def _relax_one(atoms: Atoms, factory: Any, make: Any, fmax: float, steps: int, vacuum: float | None) -> Relaxed:
    from ase.calculators.singlepoint import SinglePointCalculator

    work: Any = atoms.copy()  # type: ignore[no-untyped-call]
    if vacuum is not None and not work.pbc.any():
        work.center(vacuum=vacuum)
    before, done = np.nan, 0
    try:
        work.calc = factory()
        before = float(work.get_potential_energy())
        optimiser = make(work, logfile=None)
        converged = bool(optimiser.run(fmax=fmax, steps=steps))
        done = int(optimiser.nsteps)
        energy, forces = float(work.get_potential_energy()), work.get_forces()
        if not (np.isfinite(before) and np.isfinite(energy) and np.isfinite(work.positions).all()):
            raise ValueError(f"the calculator went from {before} eV to {energy} eV")
    except (Exception, SystemExit) as error:  # calculators raise anything, and some call sys.exit
        return Relaxed(atoms, before if np.isfinite(before) else np.nan, np.nan, done, False, _line(error))
    result = atoms.copy()  # type: ignore[no-untyped-call]
    result.positions, result.cell = work.positions, work.cell if atoms.pbc.any() else atoms.cell
    result.info.pop("energy", None)
    result.calc = SinglePointCalculator(result, energy=energy, forces=forces)  # type: ignore[no-untyped-call]
    return Relaxed(result, before, energy, done, converged)
