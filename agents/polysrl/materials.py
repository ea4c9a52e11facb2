"""Crystals with their formulas and properties, as PolySRL learns from: files of structures, and Materials Project's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from megen_gym.agents.crystal_gpt.reading import (
    CIF_COLUMNS,
    TABLES,
    Entry,
    brief,
    check,
    entries,
    from_cif,
    id_of,
    number,
    numbers_of,
)
from megen_gym.agents.polysrl.columns import FORMULA_COLUMNS, as_number, read_json, simple
from megen_gym.agents.polysrl.plain_pickle import read_pickle
from megen_gym.errors import InputError
from megen_gym.formulas import amounts_of, reduced
from megen_gym.io import FORMATS, file_format
from megen_gym.structure import BoolArray, FloatArray, IntArray

PICKLES = (".pkl", ".pickle", ".pkl.gz", ".pickle.gz")

JSONS = (".json", ".json.gz")

MANY = 200
"""From as many structures on a bar is shown."""

_FORMULAS = {simple(name) for name in FORMULA_COLUMNS}


@dataclass(frozen=True, eq=False)
class Materials:
    """N ordered crystals.

    Attributes:
        atoms: (N,) the crystals.
        formulas: (N,) as the file spells them, else reduced.
        ids: (N,) text by which the file knows each, else its number there.
        properties: (N,) numbers by name, in the units of the file; NaN where missing.
        skipped: A sentence for every structure of the file that could not be used.
    """

    atoms: list[Atoms]
    formulas: tuple[str, ...]
    ids: tuple[str, ...]
    properties: dict[str, FloatArray]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.atoms)

    def __getitem__(self, rows: IntArray | BoolArray | slice) -> Materials:
        """The materials of an index array, a mask or a slice."""
        index = np.arange(len(self))[rows]
        return Materials(
            [self.atoms[row] for row in index],
            tuple(self.formulas[row] for row in index),
            tuple(self.ids[row] for row in index),
            {name: values[index] for name, values in self.properties.items()},
            self.skipped,
        )


def read_materials(path: str | Path, progress: bool = True) -> Materials:
    """Read crystals.

    A structure that cannot be used (no ordered crystal in three directions, or not of the formula that is said of it)
    is left out, with a sentence in ``skipped``.

    Args:
        path: CSV with a column of CIFs; extended XYZ, CIF, an ASE database or anything else that
            :func:`megen_gym.io.read_structures` reads, or a folder of those; or data of the Materials Project as JSON
            or as a pickle of plain data (:func:`megen_gym.agents.polysrl.plain_pickle.read_pickle`):
            ``{id: {cif, pretty_formula, energy_per_atom, band_gap}}``, a list of such records, or columns.
        progress: Show a bar from 200 structures on.

    Raises:
        InputError: for a file that cannot be read, or without any structure that can be used.
    """
    from tqdm import tqdm

    path = Path(path)
    found, skipped = _entries(path)
    atoms: list[Atoms] = []
    formulas: list[str] = []
    ids: list[str] = []
    numbers: list[dict[str, float]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for entry in tqdm(found, desc="materials", disable=not progress or len(found) < MANY, leave=False):
            try:
                crystal = entry.make()
                check(crystal)
                formula = _formula(crystal, entry.values)
            except Exception as error:
                whole = isinstance(error, InputError) and not str(error).startswith(("has ", "is ", "holds ", "says "))
                skipped.append(f"{entry.where}{': ' if whole else ' '}{brief(error)}")
                continue
            atoms.append(crystal)
            formulas.append(formula)
            ids.append(entry.id)
            numbers.append(numbers_of(crystal) | _numbers(entry.values))
    if not atoms:
        raise InputError(f"{path} holds no crystal that can be used; {skipped[0] if skipped else 'give at least one'}")
    names = dict.fromkeys(name for row in numbers for name in row)
    properties = {name: np.array([row.get(name, np.nan) for row in numbers]) for name in names}
    properties = {name: values for name, values in properties.items() if np.isfinite(values).any()}
    return Materials(atoms, tuple(formulas), tuple(ids), properties, tuple(skipped))


def _entries(path: Path) -> tuple[list[Entry], list[str]]:
    name = path.name.lower()
    if path.is_dir() or not name.endswith((*PICKLES, *JSONS)):
        if not path.is_dir() and path.exists() and not name.endswith(TABLES) and file_format(path) is None:
            known = ", ".join((*TABLES, *JSONS, *PICKLES, *FORMATS))
            raise InputError(f"the file {path} has no known ending; expected {known} or a name POSCAR*")
        return entries(path)
    if not path.exists():
        raise InputError(f"the file {path} does not exist; give an existing file or folder of crystals")
    records = _records(read_pickle(path) if name.endswith(PICKLES) else read_json(path), path)
    return [_entry(key, record, index) for index, (key, record) in enumerate(records)], []


def _records(data: Any, path: Path) -> list[tuple[str | None, Mapping[str, Any]]]:
    """Id and values of each material of the Materials Project."""
    records: list[tuple[str | None, Any]] = []
    if isinstance(data, list | tuple):
        records = [(None, record) for record in data]
    elif isinstance(data, dict) and _cif_name(data) is not None:
        columns = {str(name): values for name, values in data.items() if isinstance(values, list | tuple | dict)}
        first = columns.get(_cif_name(data) or "", {})
        keys = list(first) if isinstance(first, dict) else list(range(len(first)))
        wrong = [name for name, values in columns.items() if len(values) != len(keys)]
        if wrong or not columns:
            raise InputError(f"the columns of {path} have unequal lengths ({', '.join(wrong)}); make them equal")
        filled = {
            name: values if isinstance(values, dict) else dict(enumerate(values)) for name, values in columns.items()
        }
        named = not all(str(key).isdecimal() for key in keys)
        records = [
            (str(key) if named else None, {name: values.get(key) for name, values in filled.items()}) for key in keys
        ]
    elif isinstance(data, dict):
        records = [(str(key), record) for key, record in data.items()]
    if not any(isinstance(record, dict) and _cif_name(record) is not None for _, record in records):
        raise InputError(
            f"{path} holds no CIFs; expected {{id: {{cif, pretty_formula, energy_per_atom, ...}}}}, a list of such "
            "records, or columns of them"
        )
    return [(key, record if isinstance(record, dict) else {}) for key, record in records]


def _cif_name(record: Mapping[Any, Any]) -> str | None:
    return next((name for name in record if isinstance(name, str) and name.strip().lower() in CIF_COLUMNS), None)


def _entry(key: str | None, record: Mapping[str, Any], index: int) -> Entry:
    column = _cif_name(record)
    text = record.get(column) if column is not None else None

    def make() -> Atoms:
        if not isinstance(text, str) or not text.strip():
            raise InputError("has no CIF")
        return from_cif(text)

    id = key or id_of({str(name): value for name, value in record.items()}, str(index))
    values = {
        str(name): str(value)
        for name, value in record.items()
        if name != column and isinstance(value, str | int | float) and not isinstance(value, bool)
    }
    return Entry(f"material {index}" + (f" ({id})" if id != str(index) else ""), id, make, values)


def _formula(atoms: Atoms, values: Mapping[str, str]) -> str:
    """What the file calls a crystal, if that is what it is."""
    symbols = atoms.get_chemical_symbols()  # type: ignore[no-untyped-call]
    found = {symbol: float(symbols.count(symbol)) for symbol in dict.fromkeys(symbols)}
    said = next((value for name, value in values.items() if simple(name) in _FORMULAS and value.strip()), None)
    if said is None:
        return str(atoms.symbols.formula.reduce()[0])
    if reduced(amounts_of(said)) != reduced(found):
        raise InputError(f"says that it is {said}, but its structure is {atoms.symbols.formula.reduce()[0]}")
    return "".join(said.split())


def _numbers(values: Mapping[str, str]) -> dict[str, float]:
    """The values of a table that are numbers."""
    return {name: as_number(text) for name, text in values.items() if number(text) is not None}
