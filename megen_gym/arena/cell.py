"""One cell of a comparison: an environment, a reward, a policy and a seed, from its description to its files."""

from __future__ import annotations

import hashlib
import json
import re
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from megen_gym import runs
from megen_gym.arena.found import Finds, save_finds
from megen_gym.arena.meter import MeteredEnergy
from megen_gym.arena.playing import check_fits, enter
from megen_gym.arena.problem import Problem
from megen_gym.errors import InputError

CELL = "cell.json"


def labelled(policy: str) -> tuple[str, str]:
    """The label of a policy, by which its options are given, and what makes it.

    >>> labelled("warm=regrow@newest"), labelled("greedy")
    (('warm', 'regrow@newest'), ('greedy', 'greedy'))
    """
    found = re.match(r"([\w.-]+)\s*=\s*(.+)", policy)
    return (found[1], found[2]) if found else (policy, policy)


@dataclass(frozen=True)
class Cell:
    """What is to be played; JSON-able.

    Attributes:
        env: Registered id.
        arguments: Of the environment, its reward among them.
        policy: As :func:`megen_gym.agents.registry.make_policy` takes it, with a label and ``=`` before it where one
            policy competes with several options.
        options: Of the policy.
        seed: Of everything that is random.
        budget: Evaluations.
        relax: Whether structures are relaxed where the reward has forces.
        fmax: eV/Å.
        known_minimum: eV, or None for what the reward knows.
        tolerance: eV, of a hit.
        run: Folder of its run, where it is trained.
        weights: Digest of that run's weights, so that another training is another cell.
    """

    env: str
    arguments: dict[str, Any]
    policy: str
    seed: int
    budget: int
    options: dict[str, Any] = field(default_factory=dict)
    relax: bool = True
    fmax: float = 0.05
    known_minimum: float | None = None
    tolerance: float = 1e-3
    run: str = ""
    weights: str = ""

    @property
    def task(self) -> str:
        """What is built under which reward, in words: the environment and its arguments."""
        words = [f"{key}={_brief(value)}" for key, value in self.arguments.items()]
        return " ".join([self.env, *words])

    @property
    def key(self) -> str:
        """Name of the folder: readable, and different for different cells."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:10]
        name = re.sub(r"[^\w.=+-]+", "-", f"{self.env}-{self.policy}")[-60:].strip("-.")
        return f"{name}-s{self.seed}-{digest}"

    def problem(self) -> Problem:
        """What the entrant is given."""
        return Problem.make(
            self.env, self.arguments, budget=self.budget, seed=self.seed, relax=self.relax, fmax=self.fmax,
            known_minimum=self.known_minimum, tolerance=self.tolerance,
        )  # fmt: skip

    def entrant(self, problem: Problem) -> Any:
        """The policy or search, checked.

        Raises:
            InputError: when it does not fit.
        """
        from megen_gym.agents.registry import make_policy

        try:
            spec = labelled(self.policy)[1]
            spec = f"{spec.partition('@')[0]}@{self.run}" if self.run else spec
            made = make_policy(spec, problem.env(1), seed=self.seed, **self.options)
            check_fits(made)
        except InputError as error:
            raise InputError(f"policy {self.policy} cannot play {self.task}: {error}") from None
        return made


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        cell: What was played.
        evaluations: Spent.
        hit: Evaluations at the first hit; None without one.
        target: eV, the known minimum; None where none is known.
        cpu: Seconds of the processor.
        energy: Whether values are energies (eV), or minus returns.
        relaxed: Whether structures were relaxed.
        symbols: Of the species.
        pbc: Periodic axes.
        one_composition: Whether all structures have the same.
        error: What was raised; "" if nothing was.
    """

    cell: Cell
    evaluations: int = 0
    hit: int | None = None
    target: float | None = None
    cpu: float = 0.0
    energy: bool = True
    relaxed: bool = False
    symbols: tuple[str, ...] = ("X",)
    pbc: tuple[bool, bool, bool] = (False, False, False)
    one_composition: bool = True
    error: str = ""


def run_cell(cell: Cell, folder: Path, told: Callable[[int], None] | None = None) -> None:
    """Play a cell and write its folder; what is raised is written too. ``cell.json`` comes last: where it is, the cell
    is done."""
    begun, problem, error = time.process_time(), None, ""
    try:
        seed_everything(cell.seed)
        problem = cell.problem()
        problem.meter.told = told
        enter(cell.entrant(problem), problem)
        if not problem.meter.used:
            error = "it ended without asking for a single evaluation"
    except (Exception, SystemExit) as raised:
        error = f"{type(raised).__name__}: {' '.join(str(raised).split())}"[:300]
        runs.write_text(folder / "error.txt", traceback.format_exc())
    cpu = time.process_time() - begun
    if problem is None:
        save_outcome(folder, Outcome(cell, cpu=cpu, error=error))
        return
    save_finds(folder, Finds.of(problem))
    lattice, meter = problem.task.lattice, problem.meter
    crystal = any(found.cell is not None for found in problem.found)
    pbc = lattice.pbc if lattice is not None else (crystal, crystal, crystal)
    unit = problem.reward.inner.unit if isinstance(problem.reward, MeteredEnergy) else 1.0
    known = meter.target - cell.tolerance * unit
    outcome = Outcome(
        cell, meter.used, meter.hit, float(known) if np.isfinite(known) else None, cpu, problem.is_energy,
        problem.relaxes, problem.task.symbols, (bool(pbc[0]), bool(pbc[1]), bool(pbc[2])), meter.goal is not None,
        error,
    )  # fmt: skip
    save_outcome(folder, outcome)


def save_outcome(folder: Path, outcome: Outcome) -> None:
    """Write ``cell.json``."""
    runs.write_text(folder / CELL, json.dumps(asdict(outcome), indent=1) + "\n")


def load_outcome(folder: Path) -> Outcome | None:
    """What ``cell.json`` says; None where the cell is not done.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / CELL
    if not path.exists():
        return None
    try:
        fields: Mapping[str, Any] = json.loads(path.read_text())
        read = {**fields, "cell": Cell(**fields["cell"])}
        read |= {"symbols": tuple(fields["symbols"]), "pbc": tuple(fields["pbc"])}
        return Outcome(**read)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); remove its folder and run the comparison again") from None


def seed_everything(seed: int) -> None:
    """Seed what policies draw from that have no generator of their own."""
    import random

    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
