"""Energies from an ASE calculator, in this process or in a child process that serves them line by line.

The child (:func:`serve`) is a plain Python process that speaks JSON lines over its standard input and output. It is not
a `multiprocessing` child, so a user's script needs no ``if __name__ == "__main__"`` and nothing is pickled.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Hartree

from megen_gym.channel import open_channel

OPTIMIZERS = ("FIRE", "BFGS")
"""Names in ase.optimize that may relax; the first is the default."""


@dataclass(frozen=True)
class Settings:
    """How an energy is computed; JSON-able, see :class:`megen_gym.rewards.calculator.CalculatorReward`."""

    calculator: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    relax_steps: int = 0
    fmax: float = 0.05
    optimizer: str = OPTIMIZERS[0]
    vacuum: float | None = None
    quantity: str = "energy"


def load(path: str) -> Any:
    """The object at a dotted import path.

    Raises:
        ImportError, AttributeError: when there is none.
    """
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def reason(error: BaseException) -> str:
    """One line that says what was raised, e.g. ``"ValueError: no such basis"``."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def gap(atoms: Atoms) -> float:
    """HOMO-LUMO gap of `atoms` by its calculator, eV.

    The highest occupied orbital is the one of the last electron when orbitals are filled from below, singly at last;
    where the basis leaves no empty one (a hydrogen atom in xTB), the lowest empty one is the vacuum level, 0 eV.

    Raises:
        AttributeError: for a calculator that tells no orbitals: only tblite does, and any with ``get_homo_lumo``.
    """
    calculator: Any = atoms.calc
    atoms.get_potential_energy()  # type: ignore[no-untyped-call]
    if hasattr(calculator, "get_homo_lumo"):
        homo, lumo = calculator.get_homo_lumo()
        return float(lumo - homo)
    energies, filled = (np.asarray(calculator._res[f"orbital-{name}"]) for name in ("energies", "occupations"))
    levels, spins = np.sort(energies, axis=None) * Hartree, 1 if energies.ndim < 2 else len(energies)
    occupied = int(np.ceil(round(float(filled.sum()), 3) * spins / 2))
    return float((levels[occupied] if occupied < len(levels) else 0.0) - levels[occupied - 1])


QUANTITIES: dict[str, Callable[[Atoms], float]] = {
    "energy": lambda atoms: float(atoms.get_potential_energy()),  # type: ignore[no-untyped-call]
    "gap": gap,
    "dipole": lambda atoms: float(np.linalg.norm(atoms.get_dipole_moment())),  # type: ignore[no-untyped-call]
}
"""What may be read of a calculator: energy (eV), HOMO-LUMO gap (eV), size of the dipole moment (e Å)."""


class Engine:
    """One calculator and what it does to a structure.

    Args:
        settings: What to compute.
        directory: Where a calculator that writes files writes them, unless its kwargs say otherwise.

    Attributes:
        evaluations: Energies computed so far, those of relaxations included.
    """

    def __init__(self, settings: Settings, directory: str | None = None) -> None:
        self.settings = settings
        self.directory = directory
        self.evaluations = 0
        self._calculator: Any = None
        self.build()

    def build(self) -> None:
        """A fresh calculator; raises whatever its import or constructor raises."""
        calculator = load(self.settings.calculator)(**self.settings.kwargs)
        current = getattr(calculator, "directory", None)
        if self.directory is not None and isinstance(current, (str, Path)) and Path(current) == Path("."):
            calculator.directory = type(current)(self.directory)
        self._calculator = calculator

    def energy(self, atoms: Atoms) -> float:
        """:meth:`judge` without forces."""
        return self.judge(atoms)[0]

    def judge(self, atoms: Atoms, forces: bool = False) -> tuple[float, Any]:
        """eV of `atoms` (or another of :data:`QUANTITIES`) after at most `relax_steps` optimiser steps, and (n, 3) eV/Å
        or None; `atoms` is left as it was.

        Raises:
            Exception: anything that the calculator raises; the next call then begins with a fresh calculator.
            ValueError: when the energy is not a finite number.
        """
        if self._calculator is None:
            self.build()
        work: Any = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        if self.settings.vacuum is not None and not any(work.pbc):
            work.center(vacuum=self.settings.vacuum)
        work.calc = self._calculator
        try:
            if self.settings.relax_steps and len(work) > 1:
                optimizer = load(f"ase.optimize.{self.settings.optimizer}")(work, logfile=None)
                optimizer.run(fmax=self.settings.fmax, steps=self.settings.relax_steps)
                self.evaluations += int(optimizer.nsteps)
            self.evaluations += 1
            energy = QUANTITIES[self.settings.quantity](work)
            pull = work.get_forces() if forces else None
        except (Exception, SystemExit):  # some calculators call sys.exit; any of them may be left half-way
            self._calculator = None
            raise
        if not np.isfinite(energy) or not np.isfinite(0.0 if pull is None else pull).all():
            self._calculator = None
            raise ValueError(f"the calculator returned {energy}" + ("" if pull is None else " and its forces"))
        return energy, pull


def encode(atoms: Atoms) -> dict[str, Any]:
    """`atoms` as JSON-able numbers, positions, cell and pbc; exact."""
    return {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": np.asarray(atoms.cell).tolist(),
        "pbc": atoms.pbc.tolist(),
    }


def greeting(settings: Settings, directory: str) -> dict[str, Any]:
    """The first message to a child."""
    return {"settings": asdict(settings), "directory": directory}


def _end_group() -> None:
    """Kill what the calculator started, if this process leads its group."""
    if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)


def serve() -> None:
    """Child process: read a greeting, then structures, answer each with an energy or an error; end with the input.

    The calculator cannot disturb the conversation: the channel is moved away from descriptors 0 and 1, which then are
    the null device. When the parent dies, the input ends and this process ends at once with all that it started.
    """
    messages, answer = open_channel(_end_group)
    first = messages.get()
    try:
        engine = Engine(Settings(**first["settings"]), first["directory"])
    except (Exception, SystemExit) as error:
        answer({"unusable": reason(error), "missing": isinstance(error, ImportError)})
        return
    answer({"ready": True})
    while True:
        question = messages.get()
        before = engine.evaluations
        try:
            energy, forces = engine.judge(Atoms(**question["atoms"]), question["forces"])
        except (Exception, SystemExit) as error:
            answer({"error": reason(error), "evaluations": engine.evaluations - before})
        else:
            told = {} if forces is None else {"forces": np.asarray(forces).tolist()}
            answer({"energy": energy, "evaluations": engine.evaluations - before, **told})
