"""Any ASE calculator as a reward."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from megen_gym.errors import InputError, nearest, require
from megen_gym.rewards.base import EnergyReward
from megen_gym.rewards.pool import Answer, Pool, unusable
from megen_gym.rewards.worker import OPTIMIZERS, QUANTITIES, Engine, Settings, load, reason
from megen_gym.structure import EMPTY, FloatArray, StructureBatch

PRESETS: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "lj": ("ase.calculators.lj.LennardJones", {"sigma": 2.361, "epsilon": 0.5, "rc": 12.0}, None),
    "emt": ("ase.calculators.emt.EMT", {}, None),
    "gfn2": ("tblite.ase.TBLite", {"method": "GFN2-xTB", "verbosity": 0}, "xtb"),
    "tblite": ("tblite.ase.TBLite", {"method": "GFN1-xTB", "verbosity": 0}, "xtb"),
}
"""Short name: import path, default kwargs, extra that installs it. "lj" has gallium's bond length (2.65 Å)."""

IN_PROCESS = ("ase.calculators.lj.LennardJones", "ase.calculators.emt.EMT", "ase.calculators.morse.MorsePotential")
"""Calculators trusted neither to hang nor to crash: without a time limit unless one is asked for."""

DEFAULT_LIMIT = 60.0
"""Seconds per structure for all other calculators."""


class CalculatorReward(EnergyReward):
    """Energy released by a placement according to an ASE calculator, eV.

    With ``relax_steps=k`` the energy of a structure is read after at most `k` optimiser steps *on a copy*: the canvas
    stays as built. E is then still a function of the structure alone, so the return of an episode telescopes to minus
    the energy of the *relaxed* last structure; a single reward may contain a relaxation that the structure before, `k`
    steps from its own start, had not finished. A structure costs up to k + 1 evaluations; :attr:`evaluations` counts
    them.

    With a time limit or several workers the calculator runs in child processes. One that raises, hangs, is killed or
    returns NaN costs the row that it worked on (an error string in `Outcome.errors`); it is restarted and the run goes
    on. ``time_limit=None, workers=1`` runs in this process: fastest, but a crash there ends the run.

    Args:
        calculator: Import path of an ASE calculator class (or function that returns one), e.g.
            ``"ase.calculators.emt.EMT"``, or a short name: lj, emt, gfn2 (GFN2-xTB), tblite
            (GFN1-xTB).
        kwargs: Arguments of the calculator.
        relax_steps: Optimiser steps before the energy is read; 0 for a single point.
        fmax: eV/Å; a relaxation ends earlier when all forces are below this.
        optimizer: FIRE or BFGS of ase.optimize.
        vacuum: Å of empty space around a cluster, for codes that need a cell; None leaves it without one.
        time_limit: Seconds per structure, relaxation included (the start of a child process is not); None for no limit.
            By default 60, and none for the harmless Lennard-Jones, Morse and EMT.
        workers: Child processes that share a batch.
        atom_energies: What is subtracted per atom, so that E is a binding energy: "auto" for the energy of the single
            atom by the same calculator, eV by element, or None to subtract nothing (then a reward contains the atom's
            own energy, thousands of eV for an all-electron code).
        quantity: What is read in place of the energy, as it is: gap (HOMO-LUMO, eV) or dipole (its size, e Å).
        invalid: Reward of a move that the task refuses.

    Attributes:
        evaluations: Energies that the calculator has computed, single atoms included, killed ones not.

    Raises:
        InputError: for a calculator that cannot be imported or built, or a value out of range.

    >>> from megen_gym.structure import StructureBatch
    >>> from ase import Atoms
    >>> reward = CalculatorReward("lj")
    >>> reward.energy(StructureBatch.from_atoms([Atoms("Ga2", [(0, 0, 0), (0, 0, 2.65)])])).round(3).tolist()
    [-0.5]
    """

    def __init__(
        self,
        calculator: str,
        kwargs: Mapping[str, Any] | None = None,
        relax_steps: int = 0,
        fmax: float = 0.05,
        optimizer: str = OPTIMIZERS[0],
        vacuum: float | None = None,
        time_limit: float | str | None = "auto",
        workers: int = 1,
        atom_energies: Mapping[str, float] | str | None = "auto",
        quantity: str = "energy",
        invalid: float = -1.0,
    ) -> None:
        path, defaults, extra = PRESETS.get(calculator, (calculator, {}, None))
        _check_installed(path, extra)
        if relax_steps < 0 or workers < 1 or fmax <= 0 or optimizer not in OPTIMIZERS:
            raise InputError(
                f"relax_steps {relax_steps}, workers {workers}, fmax {fmax}, optimizer {optimizer!r} cannot be used; "
                f"expected relax_steps >= 0, workers >= 1, fmax > 0 and an optimizer of {', '.join(OPTIMIZERS)}"
            )
        if time_limit == "auto":
            time_limit = None if path in IN_PROCESS else DEFAULT_LIMIT
        if isinstance(time_limit, str) or (time_limit is not None and not time_limit > 0):
            raise InputError(f"time_limit is {time_limit!r}; expected seconds > 0, null for no limit, or 'auto'")
        if isinstance(atom_energies, str) and atom_energies != "auto":
            raise InputError(f"atom_energies is {atom_energies!r}; expected 'auto', null, or eV by element")
        if quantity != "energy":
            _check_quantity(path, quantity)
        self.settings = Settings(path, defaults | dict(kwargs or {}), relax_steps, fmax, optimizer, vacuum, quantity)
        self.time_limit = time_limit
        self.workers = workers
        self.atom_energies = atom_energies
        self.invalid = invalid
        self.evaluations = 0
        self._atoms: dict[str, float] = {}
        self._engine: Engine | None = None
        self._pool: Pool | None = None
        if time_limit is None and workers == 1:
            self._local()  # refuses wrong kwargs at once

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_engine": None, "_pool": None}

    def energy(self, batch: StructureBatch) -> FloatArray:
        """(B,) eV; NaN where the calculator gave none. See :meth:`energy_errors` for the reasons."""
        return self.energy_errors(batch)[0]

    def energy_errors(self, batch: StructureBatch) -> tuple[FloatArray, dict[int, str]]:
        """(B,) eV of each structure, its atoms' own energies subtracted, and the reason for each NaN.

        Raises:
            InputError: when the calculator cannot be built, or fails on a single atom whose energy is asked for.
        """
        energy, _, errors = self._judge(batch, forces=False)
        return energy, errors

    @property
    def has_forces(self) -> bool:  # type: ignore[override]
        """Whether energies are single points of a calculator that says it gives forces."""
        if self.settings.relax_steps or self.settings.quantity != "energy":
            return False
        return "forces" in getattr(load(self.settings.calculator), "implemented_properties", ("forces",))

    def energy_forces(self, batch: StructureBatch) -> tuple[FloatArray, FloatArray, dict[int, str]]:
        """(B,) eV, (B, N, 3) eV/Å and the reason for each row without them; an evaluation gives both.

        Raises:
            InputError: as :meth:`energy_errors`; and where the energy is read after a relaxation, or is no energy.
        """
        if not self.has_forces:
            return super().energy_forces(batch)
        return self._judge(batch, forces=True)

    def _judge(self, batch: StructureBatch, forces: bool) -> tuple[FloatArray, FloatArray, dict[int, str]]:
        present = np.unique(batch.species)
        there = [self._atom_energy(name) if row in present else 0.0 for row, name in enumerate(batch.symbols)]
        reference = np.array([0.0, *there[1:]])
        energy, pull = 0.0 - reference[batch.species].sum(axis=1), np.zeros(batch.positions.shape if forces else 0)
        finite = np.isfinite(batch.positions).all(axis=(1, 2))
        errors = {int(row): "the positions are NaN or infinite" for row in np.flatnonzero(~finite)}
        rows = np.flatnonzero(finite & (batch.n_atoms > 0))
        if len(rows):
            for row, answer in zip(rows, self._run(batch[rows].to_atoms(), forces), strict=True):
                energy[row] += np.nan if answer.energy is None else answer.energy
                if answer.energy is None:
                    errors[int(row)] = str(answer.why)
                elif forces:
                    pull[row, : batch.n_atoms[row]] = answer.forces
        failed = [row for row in range(len(batch)) if row in errors]
        energy[failed], pull[failed if forces else []] = np.nan, np.nan
        return energy, pull, errors

    def prepare(self, symbols: Sequence[str]) -> None:
        """The energies of single atoms, where they are to be subtracted.

        Raises:
            InputError: when the calculator fails on one of them.
        """
        for symbol in symbols:
            if symbol != EMPTY:
                self._atom_energy(symbol)

    def close(self) -> None:
        """End the child processes; the next energy starts new ones. They also end with this process."""
        if self._pool is not None:
            self._pool.close()
        self._pool = None

    def _atom_energy(self, symbol: str) -> float:
        """eV to subtract for one atom of `symbol`; computed when the element occurs for the first time."""
        if symbol == EMPTY or self.atom_energies is None or self.settings.quantity != "energy":
            return 0.0
        if isinstance(self.atom_energies, Mapping):
            if symbol not in self.atom_energies:
                raise InputError(f"atom_energies names {', '.join(self.atom_energies)} but not {symbol}; add it in eV")
            return float(self.atom_energies[symbol])
        if symbol not in self._atoms:
            answer = self._run([Atoms(symbol)])[0]
            if answer.energy is None:
                raise InputError(
                    f"the calculator {self.settings.calculator!r} gives no energy for a single {symbol} atom "
                    f"({answer.why}); give atom_energies as eV by element, or null to subtract nothing"
                )
            self._atoms[symbol] = answer.energy
        return self._atoms[symbol]

    def _run(self, structures: list[Atoms], forces: bool = False) -> list[Answer]:
        if self.time_limit is None and self.workers == 1:
            engine = self._local()
            before = engine.evaluations
            answers = [_attempt(engine, atoms, forces) for atoms in structures]
            self.evaluations += engine.evaluations - before
            return answers
        if self._pool is None or self._pool.forked:
            self._pool = Pool(self.settings, self.workers, self.time_limit)  # type: ignore[arg-type]
        answers = self._pool.run(structures, forces)
        self.evaluations += sum(answer.evaluations for answer in answers)
        return answers

    def _local(self) -> Engine:
        if self._engine is None:
            try:
                self._engine = Engine(self.settings)
            except Exception as error:
                raise unusable(self.settings, reason(error)) from error
        return self._engine


def calculator_reward(name: str, **options: Any) -> CalculatorReward:
    """A calculator by short name or import path; options that this reward does not know are the calculator's kwargs.

    >>> calculator_reward("lj", sigma=2.4, relax_steps=5).settings.kwargs["sigma"]
    2.4
    """
    own = list(inspect.signature(CalculatorReward).parameters)
    extra = {key: options.pop(key) for key in list(options) if key not in own}
    for key in extra:
        if close := difflib.get_close_matches(key, own, n=1, cutoff=0.8):
            raise InputError(
                f"reward {name!r} has no option {key!r}; did you mean {close[0]!r}? Known: {', '.join(own)}"
            )
    return CalculatorReward(name, kwargs=extra | dict(options.pop("kwargs", None) or {}), **options)


def _attempt(engine: Engine, atoms: Atoms, forces: bool) -> Answer:
    try:
        energy, pull = engine.judge(atoms, forces)
    except (Exception, SystemExit) as error:
        return Answer(None, reason(error))
    return Answer(energy, forces=pull)


def _check_quantity(path: str, quantity: str) -> None:
    if quantity not in QUANTITIES:
        raise InputError(f"the quantity {quantity!r} is read of no calculator; {nearest(quantity, QUANTITIES)}")
    try:
        calculator = load(path)
    except Exception:
        return  # refused where it is built
    told = getattr(calculator, "implemented_properties", ())
    orbitals = hasattr(calculator, "get_homo_lumo") or path.startswith("tblite.")
    if inspect.isclass(calculator) and not (orbitals if quantity == "gap" else quantity in told):
        raise InputError(f"the calculator {path!r} gives no {quantity}; use one that does, e.g. gfn2")


def _check_installed(path: str, extra: str | None) -> None:
    module, _, name = path.rpartition(".")
    try:
        found = bool(module and name) and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = module == "__main__"
    if not found and extra:
        require(module.partition(".")[0], extra)
    if not found:
        raise InputError(
            f"there is no ASE calculator at {path!r}; expected an import path such as ase.calculators.emt.EMT or one "
            f"of {', '.join(PRESETS)}, and its package installed"
        )
