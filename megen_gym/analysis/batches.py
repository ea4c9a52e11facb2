"""Relaxation of many structures at fixed cell: in parts, in child processes, and exactly resumable.

Every structure is written to a journal as soon as it is done. A run that was killed goes on behind the last one; one
whose *calculator* died has lost that structure alone, which is booked as failed. The two differ because the calculator
lives in a child process: if that ends while this one lives, it is a crash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms

from megen_gym import io
from megen_gym.analysis.children import Job, relax_in_children
from megen_gym.analysis.journal import Record, entry, read_journal, table
from megen_gym.analysis.relax import calculator_factory
from megen_gym.errors import InputError
from megen_gym.runs import write_text
from megen_gym.structure import StructureBatch

SETTINGS, JOURNAL = "relax_settings.json", "relax_journal_{}of{}.extxyz"
RESULTS, DISCARDED, RELAXED = "relax_results.csv", "discarded.csv", "relaxed.extxyz"


def relax_in_batches(
    structures: StructureBatch | Sequence[Atoms],
    folder: str | Path,
    calculator: str = "emt",
    kwargs: Mapping[str, Any] | None = None,
    *,
    fmax: float = 0.05,
    steps: int = 1000,
    soft_fmax: float | None = None,
    optimizer: Literal["FIRE", "BFGS"] = "FIRE",
    part: str = "1/1",
    workers: int = 1,
    time_limit: float | None = None,
    progress: bool = True,
) -> list[Record]:
    """Relax structures at fixed cell; call it again after an interruption, and it goes on.

    In `folder` it writes a journal of every structure done, and at the end ``relax_results.csv`` (all),
    ``discarded.csv`` (the failed) and ``relaxed.extxyz`` (the others, with their number in the input as ``structure``),
    of all parts that are there.

    Args:
        structures: What to relax; steps of 0 give single-point energies.
        folder: For the results; one folder for one set of structures and settings.
        calculator: A short name or an import path as in :func:`~megen_gym.analysis.relax.calculator_factory`.
        kwargs: Its arguments.
        fmax: eV/Å at which a relaxation has converged.
        steps: Most optimiser steps.
        soft_fmax: eV/Å; structures whose forces are above this at the end are discarded. None keeps all.
        optimizer: Of ``ase.optimize``.
        part: ``"k/m"``: only every m-th structure from the k-th on, for m jobs that share the work and the folder.
        workers: Child processes.
        time_limit: Seconds per structure, after which it is given up; None for no limit.
        progress: Show a progress bar.

    Returns:
        One record per structure that is done, of all parts, by number.

    Raises:
        InputError: for settings out of range, a calculator that cannot be made, or a folder of another relaxation.
    """
    from tqdm import tqdm

    given = structures.to_atoms() if isinstance(structures, StructureBatch) else list(structures)
    which, parts = _part(part)
    if not fmax > 0 or steps < 0 or workers < 1 or not (time_limit is None or time_limit > 0):
        raise InputError(
            f"fmax {fmax}, steps {steps}, workers {workers}, time_limit {time_limit} do not describe a relaxation; "
            "expected fmax > 0, steps >= 0, workers >= 1 and a positive time limit"
        )
    if not given:
        raise InputError("there are no structures to relax; give at least one")
    calculator_factory(calculator, kwargs)
    folder = Path(folder)
    settings = {"calculator": calculator, "kwargs": dict(kwargs or {}), "fmax": fmax, "steps": steps}
    _claim(folder, settings | {"optimizer": optimizer, "structures": _digest(given)})
    journal = folder / JOURNAL.format(which, parts)
    done = {record.structure for record in read_journal(journal, repair=True)}
    todo = [index for index in range(which - 1, len(given), parts) if index not in done]
    job = Job(calculator, dict(kwargs or {}), fmax, steps, optimizer)
    count = len(range(which - 1, len(given), parts))
    with tqdm(
        total=count,
        initial=count - len(todo),
        desc=f"relaxing with {calculator}",
        unit="structure",
        disable=not progress,
    ) as bar:
        for index, answer in relax_in_children([(i, given[i]) for i in todo], job, workers, time_limit):
            io.append_structures(journal, [entry(index, given[index], answer)])
            bar.update()
    return collect(folder, soft_fmax)


def collect(folder: str | Path, soft_fmax: float | None = None) -> list[Record]:
    """Write ``relax_results.csv``, ``discarded.csv`` and ``relaxed.extxyz`` from the journals of all parts.

    Args:
        folder: Of :func:`relax_in_batches`.
        soft_fmax: As there.

    Returns:
        The records by number.
    """
    folder = Path(folder)
    records = [r for path in sorted(folder.glob(JOURNAL.format("*", "*"))) for r in read_journal(path)]
    unique = {record.structure: record for record in records}
    records = [_soft(unique[index], soft_fmax) for index in sorted(unique)]
    write_text(folder / RESULTS, table([record.row() for record in records]))
    write_text(folder / DISCARDED, table([record.row() for record in records if record.error]))
    kept = [record for record in records if not record.error]
    if kept:
        info: dict[str, Any] = {"structure": [r.structure for r in kept], "energy_before": [r.before for r in kept]}
        io.write_structures(
            folder / RELAXED, [r.atoms for r in kept], info | {"converged": [r.converged for r in kept]}
        )
    else:
        (folder / RELAXED).unlink(missing_ok=True)
    return records


def _soft(record: Record, soft_fmax: float | None) -> Record:
    if soft_fmax is None or record.error or record.fmax <= soft_fmax:
        return record
    why = f"forces of {record.fmax:.3g} eV/Å after {record.steps} steps"
    return Record(**(vars(record) | {"error": why}))


def _part(part: str) -> tuple[int, int]:
    """Numbers k and m of "k/m"."""
    words = str(part).split("/")
    if len(words) != 2 or not all(word.isdigit() for word in words) or not 1 <= int(words[0]) <= int(words[1]):
        raise InputError(f"part {part!r} says not which part it is; expected k/m such as 1/4 with k from 1 to m")
    return int(words[0]), int(words[1])


def _digest(structures: Sequence[Atoms]) -> str:
    content = hashlib.sha256()
    for atoms in structures:
        for array in (atoms.numbers, np.round(atoms.positions, 6) + 0.0, np.round(atoms.cell.array, 6) + 0.0):
            content.update(np.ascontiguousarray(array).tobytes())
        content.update(b"|")
    return content.hexdigest()


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Write down what is relaxed how, or refuse a folder where something else was."""
    path, wanted = folder / SETTINGS, json.loads(json.dumps(settings))
    if not path.exists():
        write_text(path, json.dumps(wanted, indent=2) + "\n")
        return
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = {}
    differ = [name for name in wanted if found.get(name) != wanted[name]]
    if differ:
        raise InputError(
            f"the folder {folder} holds a relaxation with another {' and '.join(differ)}; choose another folder, or "
            f"remove {path.name} and relax_journal_*.extxyz in it"
        )
