"""The structures of a cell, as arrays and on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from megen_gym import runs
from megen_gym.analysis.validity import valid_clusters
from megen_gym.arena.problem import Problem
from megen_gym.errors import InputError
from megen_gym.near import within
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch
from megen_gym.tasks.base import Task
from megen_gym.tasks.cluster import ClusterTask
from megen_gym.tasks.slots import SlotsTask

FINDS = "found.npz"


@dataclass(frozen=True)
class Finds:
    """M structures in the order in which they were handed in.

    Attributes:
        evaluations: (M,) spent until then.
        value: (M,) eV, or minus the return; NaN where there is none.
        valid: (M,) complete, in one piece, and within the rules of the task.
        minimum: (M,) relaxed until the forces vanished.
        species: (M, N) index into the symbols, 0 as padding.
        positions: (M, N, 3) Å.
        cell: (M, 3, 3) Å, or (0, 3, 3) without cells.
    """

    evaluations: IntArray
    value: FloatArray
    valid: BoolArray
    minimum: BoolArray
    species: IntArray
    positions: FloatArray
    cell: FloatArray

    def __len__(self) -> int:
        return len(self.value)

    @classmethod
    def of(cls, problem: Problem) -> Finds:
        """What was handed in within the budget."""
        found = [one for one in problem.found if one.evaluations <= problem.meter.budget]
        width = max((len(one.species) for one in found), default=0)
        positions, species = np.zeros((len(found), width, 3)), np.zeros((len(found), width), dtype=np.int16)
        for row, one in enumerate(found):
            positions[row, : len(one.species)], species[row, : len(one.species)] = one.positions, one.species
        cells = [one.cell for one in found if one.cell is not None]
        cell = np.stack(cells) if cells and len(cells) == len(found) else np.zeros((0, 3, 3))
        lattice = problem.task.lattice
        pbc = lattice.pbc if lattice is not None else (bool(cells),) * 3
        batch = StructureBatch.trusted(
            positions, species.astype(np.int64), problem.task.symbols, cell if len(cell) else None, pbc  # type: ignore[arg-type]
        )  # fmt: skip
        minimum = np.array([one.minimum for one in found], dtype=bool)
        clean = np.array([one.clean for one in found], dtype=bool)
        valid = valid_structures(problem.task, batch)
        if not problem.relaxes:
            valid &= clean
        if problem.meter.goal is not None and len(found):
            valid &= problem.meter.complete(batch)
        return cls(
            np.array([one.evaluations for one in found], dtype=np.int64),
            np.array([one.value for one in found], dtype=np.float64),
            valid, minimum, species, positions, cell,
        )  # fmt: skip

    def batch(self, symbols: Sequence[str], pbc: tuple[bool, bool, bool]) -> StructureBatch:
        """The structures."""
        cell = self.cell if len(self.cell) else None
        return StructureBatch.trusted(self.positions, self.species.astype(np.int64), tuple(symbols), cell, pbc)


def valid_structures(task: Task[Any], batch: StructureBatch) -> BoolArray:
    """(B,) whether structures are sensible, however they were made: clusters are one piece under the task's windows
    (see :func:`~megen_gym.analysis.validity.valid_clusters`) and inside its scaffold, and no two atoms of crystals are
    nearer than the task's guard allows.
    """
    if not len(batch):
        return np.zeros(0, dtype=bool)
    if isinstance(task, ClusterTask):
        sound = valid_clusters(batch, task.rules if task.rules.windows else None)
        if task.scaffold is None:
            return sound
        inside = task.inside(batch.positions.reshape(-1, 3)).reshape(batch.mask.shape)
        return np.asarray(sound & (inside | ~batch.mask).all(1))
    low = task.rules.min_distance if isinstance(task, SlotsTask) else float(getattr(task, "min_distance", 0.5))
    valid: BoolArray = batch.n_atoms > 0
    if low <= 0 or batch.cell is None:
        return valid
    structure, first, second = np.nonzero(batch.mask[:, :, None] & batch.mask[:, None])
    kept = first <= second
    structure, first, second = structure[kept], first[kept], second[kept]
    vectors = batch.positions[structure, first] - batch.positions[structure, second]
    near, _ = within(batch.cell, batch.pbc, structure, vectors, first == second, low)
    valid[structure[near]] = False
    return valid


def save_finds(folder: Path, finds: Finds) -> None:
    """Write ``found.npz``."""
    folder.mkdir(parents=True, exist_ok=True)
    with runs.atomic(folder / FINDS) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{one.name: getattr(finds, one.name) for one in fields(Finds)})


def load_finds(folder: Path) -> Finds:
    """What ``found.npz`` holds; nothing where it is not there, as when a cell failed before it began.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / FINDS
    if not path.exists():
        nothing = np.zeros(0)
        none = nothing.astype(bool)
        return Finds(
            nothing.astype(np.int64), nothing, none, none, np.zeros((0, 0), dtype=np.int16), np.zeros((0, 0, 3)),
            np.zeros((0, 3, 3)),
        )  # fmt: skip
    try:
        with np.load(path, allow_pickle=False) as file:
            return Finds(**{one.name: file[one.name] for one in fields(Finds)})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}); remove its folder and run the comparison again") from None
