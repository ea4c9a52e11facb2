"""The journal of a relaxation: one extended XYZ structure per structure done, with all that became of it."""

from __future__ import annotations

import csv
import io as text
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from megen_gym import io
from megen_gym.periodic import Lattice

COLUMNS = (
    "structure", "energy_before", "energy", "energy_per_atom", "steps", "fmax", "converged", "displacement", "error",
)  # fmt: skip
"""Of ``relax_results.csv`` and ``discarded.csv``; see :class:`Record`."""


@dataclass(frozen=True)
class Record:
    """What became of one structure.

    Attributes:
        structure: Its number in the input.
        atoms: Relaxed, with energy and forces; as given if it failed.
        before: eV, unrelaxed.
        energy: eV, relaxed.
        steps: Optimiser steps.
        fmax: eV/Å, largest force at the end.
        converged: Whether that is below the limit.
        displacement: Å, root mean square displacement of the atoms, across boundaries.
        error: Why it failed or was discarded; "" if it was not.
    """

    structure: int
    atoms: Atoms
    before: float
    energy: float
    steps: int
    fmax: float
    converged: bool
    displacement: float
    error: str = ""

    def row(self) -> list[str]:
        """Cells of ``relax_results.csv``."""
        numbers = (self.before, self.energy, self.energy / max(len(self.atoms), 1))
        return [
            str(self.structure), *(_cell(x) for x in numbers), str(self.steps), _cell(self.fmax), str(self.converged),
            _cell(self.displacement), self.error,
        ]  # fmt: skip


def _cell(value: float) -> str:
    return f"{value:.8g}" if np.isfinite(value) else ""


def entry(index: int, given: Atoms, answer: dict[str, Any]) -> Atoms:
    """A structure of the journal, from the one that was given and the answer of a child."""
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = Atoms(given.numbers, answer.get("positions", given.positions), cell=given.cell, pbc=given.pbc)
    atoms.info = {"structure": index, "steps": answer["steps"], "converged": bool(answer["converged"])}
    if np.isfinite(answer["before"]):
        atoms.info["energy_before"] = answer["before"]
    if answer["error"] is not None:
        atoms.info["error"] = answer["error"]
        return atoms
    moves = Lattice(given.cell.array, given.pbc).minimum_image(atoms.positions - given.positions)
    atoms.info["displacement"] = float(np.sqrt((moves**2).sum(axis=1).mean()))
    forces = np.asarray(answer["forces"])
    atoms.calc = SinglePointCalculator(atoms, energy=answer["energy"], forces=forces)  # type: ignore[no-untyped-call]
    return atoms


def read_journal(path: Path, repair: bool = False) -> list[Record]:
    """What a journal says; with `repair` a torn last structure is removed from it."""
    if not path.exists() or not path.stat().st_size:
        return []
    if repair:
        io.truncate_structures(path, 0)
    records = []
    for atoms in io.read_structures(path, check=False, tail="drop") if path.stat().st_size else ():
        info, error = atoms.info, str(atoms.info.get("error", ""))
        forces = np.zeros((1, 3)) if error else atoms.get_forces()  # type: ignore[no-untyped-call]
        records.append(
            Record(
                int(info["structure"]), atoms, float(info.get("energy_before", np.nan)), io.energy_of(atoms),
                int(info["steps"]), float("nan") if error else float(np.linalg.norm(forces, axis=1).max()),
                bool(info["converged"]), float(info.get("displacement", np.nan)), error,
            )
        )  # fmt: skip
    return records


def table(rows: list[list[str]]) -> str:
    """Rows as CSV with a header."""
    out = text.StringIO()
    csv.writer(out, lineterminator="\n").writerows([list(COLUMNS), *rows])
    return out.getvalue()
