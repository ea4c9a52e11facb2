"""What a folder holds: tables in Markdown and CSV, curves in CSV, and structures."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from megen_gym.errors import InputError
from megen_gym.io import file_format, read_structures
from megen_gym.report.content import Table
from megen_gym.report.curves import PLACES
from megen_gym.report.packing import drawable, energy
from megen_gym.runs import METRICS
from megen_gym.structure import FloatArray

MOST_ROWS = 200
"""Longer tables are cut."""

MOST_BYTES = 64_000_000
"""Structure files are read until this is reached, the newest first, so that a report takes seconds."""

TABLE = "table.md"
"""What training writes about its policy and the baselines."""

STRUCTURE_FILES = ("*.extxyz", "*.xyz", "*/*.extxyz", "*/*.xyz", "generated*/*.db")


@dataclass(frozen=True)
class Found:
    """Structures of a folder.

    Attributes:
        structures: Each with its group in info "policy".
        left_out: Sentences about what is not among them.
    """

    structures: list[Atoms]
    left_out: list[str]


def markdown_tables(path: Path) -> list[Table]:
    """The tables of a Markdown file, each under the last line of text before it."""
    tables: list[Table] = []
    rows: list[list[str]] = []
    caption = "Policies compared" if path.name == TABLE else title_of(path)
    for line in [*path.read_text().splitlines(), ""]:
        text = line.strip()
        if text.startswith("|"):
            cells = re.split(r"(?<!\\)\|", text.strip("|"))
            rows.append([cell.strip().replace("\\|", "|") for cell in cells])
            continue
        if len(rows) > 1 and all(re.fullmatch(r":?-+:?", cell) for cell in rows[1]):
            body = [row for row in rows[2:] if len(row) == len(rows[0])]
            tables.append(Table(caption, rows[0], body))
        rows = []
        caption = text.lstrip("# ").rstrip(":") or caption
    return tables


def csv_table(path: Path) -> Table:
    """A CSV file as a table; the rows that do not fit its header are left out."""
    header, rows = _csv(path)
    note = f"The first {MOST_ROWS} of {len(rows):,} rows; {path.name} has all." if len(rows) > MOST_ROWS else ""
    return Table(title_of(path), header, rows[:MOST_ROWS], note)


def csv_curves(path: Path) -> Mapping[str, FloatArray] | None:
    """The columns of a CSV file by name, if they are numbers that begin with an epoch or the like; None otherwise."""
    header, rows = _csv(path)
    if len(rows) < 2 or header[0] not in PLACES:
        return None
    try:
        table = np.array([[float(cell or "nan") for cell in row] for row in rows])
    except ValueError:
        return None
    return {name: table[:, index] for index, name in enumerate(header)}


def csv_files(folder: Path) -> list[Path]:
    """CSV files of a run beside its metrics, sorted by name."""
    return sorted(path for path in folder.glob("*.csv") if path.name != METRICS)


def structures_of(folder: Path) -> Found:
    """All structures of a run folder and the folders in it, repeated ones once.

    A structure that names its policy belongs to it, another one to its file. A policy that occurs in several files is
    told apart by them.
    """
    files = {path for pattern in STRUCTURE_FILES for path in folder.glob(pattern) if not path.name.startswith(".")}
    left_out, budget, faulty = [], MOST_BYTES, 0
    read: dict[Path, list[Atoms]] = {}
    known: set[bytes] = set()
    for path in sorted(files, key=lambda path: (-path.stat().st_mtime, path.name)):
        budget -= path.stat().st_size
        if budget < 0 and read:
            left_out.append(f"{path.name} was not read: there are {MOST_BYTES // 10**6} MB of newer structures")
            continue
        try:
            found = read_structures(path, check=False, tail="drop") if path.stat().st_size else []
        except InputError as error:
            left_out.append(str(error))
            continue
        good = [atoms for atoms in found if drawable(atoms)]
        faulty += len(found) - len(good)
        unlike = {key: atoms for atoms in good if (key := _key(atoms)) not in known}
        known |= unlike.keys()
        if unlike:
            read[path] = list(unlike.values())
    if faulty:
        left_out.append(f"{faulty} without atoms, or with positions or a cell that cannot be drawn")
    return Found(grouped(read), left_out)


def grouped(read: Mapping[Path, Sequence[Atoms]]) -> list[Atoms]:
    """The structures of some files, each with its group in info "policy"."""
    files: dict[str, set[Path]] = {}
    for path, structures in read.items():
        for atoms in structures:
            files.setdefault(_policy(atoms), set()).add(path)
    together = []
    for path, structures in read.items():
        stem = title_of(path).removeprefix("structures ")
        stem = f"{path.parent.name.replace('_', ' ')} {stem}" if stem.isdigit() else stem
        for atoms in structures:
            policy = _policy(atoms)
            label = stem if not policy else policy if len(files[policy]) == 1 else f"{policy}, {stem}"
            atoms.info["policy"] = label
            together.append(atoms)
    return together


def title_of(path: Path) -> str:
    """The name of a file for a reader.

    >>> title_of(Path("runs/a/structures_eval.extxyz.gz"))
    'structures eval'
    """
    return path.name.partition(".")[0].replace("_", " ")


def is_structures(path: Path) -> bool:
    """Whether a path is a file of structures by its name."""
    return file_format(path) is not None and not path.is_dir()


def energies(structures: Sequence[Atoms]) -> dict[str, FloatArray]:
    """The energies (eV) by group, where there are any."""
    groups: dict[str, list[float]] = {}
    for atoms in structures:
        if np.isfinite(value := energy(atoms)):
            groups.setdefault(str(atoms.info["policy"]), []).append(value)
    return {name: np.array(values) for name, values in groups.items()}


def _policy(atoms: Atoms) -> str:
    return str(atoms.info.get("policy") or "")


def _key(atoms: Atoms) -> bytes:
    arrays = [atoms.numbers, np.round(atoms.positions, 4) + 0.0, np.round(atoms.cell.array, 4) + 0.0]
    return b"".join(array.tobytes() for array in arrays) + _policy(atoms).encode()


def _csv(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="") as file:
        header, *rows = list(csv.reader(file)) or [[""]]
    return header, [row for row in rows if len(row) == len(header)]
