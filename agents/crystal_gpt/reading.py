"""What a file of crystals holds, structure by structure, so that a bad one costs itself only."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from megen_gym.errors import InputError
from megen_gym.io import FORMATS, energy_of, fault, file_format, read_structures

TABLES = (".csv", ".csv.gz")

CIF_COLUMNS = ("cif", "cif_string", "structure")
"""Names of the column of a table that holds a CIF in each row; the first of them that is there counts."""

ID_COLUMNS = ("material_id", "mp_id", "id", "name", "uid", "key")
"""Names of a column, or of a value stored with a structure, that says which one it is; never a property."""

_BLANK = ("", "nan", "none", "null", "na", "n/a")

_SENTENCE = 200


@dataclass(frozen=True, eq=False)
class Entry:
    """One structure that is still to be read.

    Attributes:
        where: Its place, e.g. ``"row 12 (mp-1234)"``, the beginning of a sentence.
        id: Name by which the file knows it, else its number.
        make: Reads it; raises whatever is wrong with it.
        values: What a table says about it beside its CIF, as text.
    """

    where: str
    id: str
    make: Callable[[], Atoms]
    values: Mapping[str, str] = field(default_factory=dict)


def entries(path: Path) -> tuple[list[Entry], list[str]]:
    """The structures of a file or folder, and a sentence for every part that is no structure at all.

    Args:
        path: CSV with a column of CIFs, anything that :func:`megen_gym.io.read_structures` reads, or a folder of those.

    Raises:
        InputError: for a file that is missing, empty, of unknown ending or without any structure.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and file_format(file))
        files = [file for file in files if not file.name.startswith(".")]
        if not files:
            raise InputError(f"the folder {path} holds no structure file; expected {', '.join(FORMATS)} or POSCAR*")
        found: list[Entry] = []
        faults: list[str] = []
        for file in files:
            try:
                inside, torn = _file(file)
            except InputError as error:
                inside, torn = [], [f"{file.name}: {error}"]
            only = len(inside) == 1
            for index, entry in enumerate(inside):
                name = file.name if only else f"{file.name}:{index}"
                found.append(Entry(name, file.stem if only else name, entry.make, entry.values))
            faults += [sentence if sentence.startswith(file.name) else f"{file.name}: {sentence}" for sentence in torn]
        return found, faults
    if not path.exists():
        raise InputError(f"the file {path} does not exist; give an existing file or folder of crystals")
    if not path.name.lower().endswith(TABLES) and file_format(path) is None:
        known = ", ".join((*TABLES, *FORMATS))
        raise InputError(f"the file {path} has no known ending; expected {known} or a name POSCAR*")
    if path.stat().st_size == 0:
        raise InputError(f"the file {path} is empty; expected at least one crystal")
    return (_table(path), []) if path.name.lower().endswith(TABLES) else _file(path)


def numbers_of(atoms: Atoms) -> dict[str, float]:
    """The numbers stored with a structure: in ``info``, as ASE key-value pairs, and the energy (eV)."""
    found = {
        name: float(value)
        for name, value in atoms.info.items()
        if isinstance(value, int | float | np.integer | np.floating)
        and not isinstance(value, bool)
        and name.lower() not in ID_COLUMNS
    }
    energy = energy_of(atoms) if isinstance(atoms.info.get("energy", 0.0), int | float | np.number) else math.nan
    return found | ({"energy": energy} if math.isfinite(energy) else {})


def id_of(values: Mapping[str, Any], default: str) -> str:
    """What a structure is called, by its table row or its ``info``."""
    lower = {name.lower(): str(value).strip() for name, value in values.items()}
    return next((lower[name] for name in ID_COLUMNS if lower.get(name)), default)


def number(text: str) -> float | None:
    """A cell as a number, NaN where it is blank; None where it is text.

    >>> number("1e-3"), number(" "), number("Fm-3m")
    (0.001, nan, None)
    """
    plain = text.strip()
    if plain.lower() in _BLANK:
        return math.nan
    try:
        value = float(plain)
    except ValueError:
        return None
    return value if math.isfinite(value) else math.nan


def check(atoms: Atoms) -> None:
    """Refuse what is no ordered crystal.

    Raises:
        InputError: whose message continues a sentence that begins with the structure's place.
    """
    if problem := fault(atoms):
        raise InputError(problem)
    if not atoms.pbc.all() or abs(atoms.cell.volume) < 0.1:
        raise InputError("is not periodic in three directions")
    sites = atoms.info.get("occupancy")
    for shares in sites.values() if isinstance(sites, Mapping) else ():
        if len(shares) != 1 or abs(sum(shares.values()) - 1) > 1e-3:
            text = ", ".join(f"{symbol} {share:g}" for symbol, share in shares.items())
            raise InputError(f"has a site that is only partly occupied ({text})")


def from_cif(text: str) -> Atoms:
    """The first crystal of the text of a CIF."""
    from ase.io.cif import parse_cif

    for block in parse_cif(io.StringIO(text)):
        if block.has_structure():
            atoms: Atoms = block.get_atoms()
            return atoms
    raise InputError("holds no crystal structure in its CIF")


def brief(error: Exception) -> str:
    """An error as the end of a sentence."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, KeyError):
        return f"cannot be read (unknown element or missing entry {error})"[:_SENTENCE]
    return "cannot be read (" + " ".join(f"{type(error).__name__}: {error}".split())[:_SENTENCE] + ")"


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix.lower() == ".gz" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is no complete gzip file ({type(error).__name__}: {error}); restore it") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _table(path: Path) -> list[Entry]:
    text = _text(path)
    try:
        with _long_cells():
            reader = csv.DictReader(io.StringIO(text, newline=""), restkey="")
            rows, columns = list(reader), [name or "" for name in reader.fieldnames or ()]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as CSV ({error}); repair it") from None
    lower = {name.strip().lower(): name for name in columns}
    column = next((lower[name] for name in CIF_COLUMNS if name in lower), None)
    if column is None:
        raise InputError(
            f"{path} has the columns {', '.join(filter(None, columns)) or 'none'}, but none of CIFs; "
            f"name one of them {' or '.join(CIF_COLUMNS)}"
        )
    if not rows:
        raise InputError(f"{path} has a header but no rows; expected at least one crystal")
    found = []
    for index, row in enumerate(rows):
        values = {name: value or "" for name, value in row.items() if name and name != column}
        name = id_of(values, str(index))
        values = {key: value for key, value in values.items() if key.strip().lower() not in ID_COLUMNS}
        where = f"row {index}" + (f" ({name})" if name != str(index) else "")
        found.append(Entry(where, name, _later(row.get(column) or ""), values))
    return found


def _later(text: str) -> Callable[[], Atoms]:
    def make() -> Atoms:
        if not text.strip():
            raise InputError("has no CIF")
        return from_cif(text)

    return make


def _file(path: Path) -> tuple[list[Entry], list[str]]:
    """Whole where all of it can be read at once, else piece by piece."""
    kind = file_format(path)
    if kind == "extxyz" and path.stat().st_size:
        return _frames(path)
    if kind == "cif" and path.stat().st_size:
        blocks = re.split(r"(?im)^(?=data_)", _text(path))
        texts = [block for block in blocks if "_atom_site" in block]
        if not texts:
            raise InputError(f"{path} holds no crystal structure; expected a CIF with atom sites")
        return [_entry(index, _later(text)) for index, text in enumerate(texts)], []
    structures = read_structures(path, check=False)
    return [_entry(index, partial(same, atoms), atoms) for index, atoms in enumerate(structures)], []


def same(atoms: Atoms) -> Atoms:
    """What reads a structure that is there already."""
    return atoms


def _entry(index: int, make: Callable[[], Atoms], atoms: Atoms | None = None) -> Entry:
    name = id_of(atoms.info, str(index)) if atoms is not None else str(index)
    return Entry(f"structure {index}" + (f" ({name})" if name != str(index) else ""), name, make)


def _frames(path: Path) -> tuple[list[Entry], list[str]]:
    """Structures of an (ext)xyz file, up to where its counts of atoms no longer fit."""
    lines = _text(path).splitlines(keepends=True)
    found: list[Entry] = []
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        where = f"structure {len(found)} (line {at + 1})"
        end = at + 2 + int(lines[at]) if lines[at].strip().isdecimal() else 0
        if not end or end > len(lines):
            text = lines[at].strip()[:40]
            reason = "is cut short" if end else f"begins with {text!r} instead of the number of atoms"
            if not found:
                raise InputError(f"{where} of {path} {reason}; restore the file")
            return found, [f"{where} {reason}, and so nothing that follows can be read"]
        index = len(found)
        name = re.search(rf"\b(?:{'|'.join(ID_COLUMNS)})=(\"[^\"]*\"|\S+)", lines[at + 1])
        id = name[1].strip('"') if name else str(index)
        label = f"structure {index}" + (f" ({id})" if name else "")
        found.append(Entry(label, id, _frame("".join(lines[at:end]))))
        at = end
    if not found:
        raise InputError(f"the file {path} holds no structure; expected at least one")
    return found, []


def _frame(text: str) -> Callable[[], Atoms]:
    def make() -> Atoms:
        from ase.io.extxyz import read_xyz

        atoms: Atoms = next(iter(read_xyz(io.StringIO(text), slice(None))))
        return atoms

    return make
