"""What a comparison folder says: the cells that are done, and what they reached."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megen_gym.arena.cell import Cell, Outcome, load_outcome
from megen_gym.arena.found import FINDS, Finds, load_finds
from megen_gym.arena.measure import Row, best_and_low, comparable, row_of
from megen_gym.errors import InputError
from megen_gym.io import read_structures
from megen_gym.structure import BoolArray, StructureBatch

COMPARISON, CELLS = "comparison.json", "cells"


@dataclass(frozen=True)
class Played:
    """A cell that is done.

    Attributes:
        outcome: What became of it.
        finds: Its structures.
        row: Its numbers.
        low: (M,) whether each structure is valid and low.
        best: Best value known in its task, eV (by atom where sizes differ) or minus a return.
        per_atom: Whether values are by atom.
    """

    outcome: Outcome
    finds: Finds
    row: Row
    low: BoolArray
    best: float
    per_atom: bool


def load_comparison(folder: Path) -> tuple[dict[str, Any], list[Played]]:
    """Settings and finished cells of a comparison folder, in the order in which they were asked for.

    Raises:
        InputError: if the folder holds no comparison, or its files are damaged.
    """
    path = folder / COMPARISON
    if not path.is_file():
        raise InputError(f"{folder} holds no comparison; make one: python -m megen_gym compare --output {folder}")
    try:
        settings: dict[str, Any] = json.loads(path.read_text())
        cells = [Cell(**cell) for cell in settings["cells"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error!r}); run the comparison again") from None
    reference = None if settings.get("reference") is None else read_reference(settings["reference"])
    return settings, measured(folder, cells, settings.get("window"), reference)


def read_reference(path: str | Path) -> StructureBatch:
    """Known structures of a file."""
    return StructureBatch.from_atoms(read_structures(path))


def measured(
    folder: Path, cells: Sequence[Cell], window: float | None, reference: StructureBatch | None
) -> list[Played]:
    """The cells that are done, measured task by task."""
    found = {cell.key: load_outcome(folder / CELLS / cell.key) for cell in cells}
    played: dict[str, Played] = {}
    for task in dict.fromkeys(cell.task for cell in cells):
        outcomes = [o for cell in cells if cell.task == task and (o := found[cell.key]) is not None]
        finds = [_finds(folder / CELLS / outcome.cell.key, outcome) for outcome in outcomes]
        per_atom = all(outcome.energy for outcome in outcomes) and not all(o.one_composition for o in outcomes)
        best, low = best_and_low(outcomes, finds, window, per_atom)
        for outcome, one in zip(outcomes, finds, strict=True):
            row = row_of(outcome, one, low, reference, per_atom)
            played[outcome.cell.key] = Played(
                outcome, one, row, one.valid & (comparable(one, per_atom) <= low), best, per_atom
            )
    return [played[cell.key] for cell in cells if cell.key in played]


def _finds(folder: Path, outcome: Outcome) -> Finds:
    """The structures of a cell.

    Raises:
        InputError: where they are lost.
    """
    if not outcome.error and not (folder / FINDS).exists():
        raise InputError(f"{folder / FINDS} is gone; remove its folder and run the comparison again")
    return load_finds(folder)


def errors(played: Sequence[Played]) -> dict[str, str]:
    """Why policies failed, by policy and seed."""
    return {f"{one.row.policy}, seed {one.row.seed}": one.row.error for one in played if one.row.error}


def grouped(played: Sequence[Played]) -> dict[tuple[str, str], list[Played]]:
    """Cells that differ in the seed only, by task and policy."""
    groups: dict[tuple[str, str], list[Played]] = {}
    for one in played:
        groups.setdefault((one.row.task, one.row.policy), []).append(one)
    return groups
