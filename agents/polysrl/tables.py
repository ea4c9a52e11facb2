"""Tables of formulas with a measured or computed property, as property prediction takes them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from megen_gym.agents.crystal_gpt.reading import ID_COLUMNS
from megen_gym.agents.polysrl.columns import Columns, as_number, formula_column, read_columns, simple
from megen_gym.errors import InputError, nearest
from megen_gym.formulas import amounts_of, reduced
from megen_gym.structure import BoolArray, FloatArray, IntArray

Duplicates = Literal["mean", "first", "lowest", "keep"]

Key = tuple[tuple[str, float], ...]
"""What all formulas of one composition have in common, see :func:`megen_gym.formulas.reduced`."""

FOLD_COLUMNS = ("fold", "test_fold")

_NO_PROPERTY = {simple(name) for name in (*ID_COLUMNS, *FOLD_COLUMNS, "index", "unnamed: 0", "")}

_FOLDER_FILE = re.compile(r"(train|val|test)[-_]?(\d+)\.csv(?:\.gz)?")


@dataclass(frozen=True, eq=False)
class PropertyTable:
    """N formulas with one property.

    Attributes:
        formulas: (N,) as they were spelled.
        target: (N,) the property in the units of the file; all finite.
        name: Of the property.
        fold: (N,) in which of the official folds a row is tested, -1 for none; None where the file does not say.
        splits: Official (train, test) rows of each fold, where they are listed one by one.
        skipped: A sentence for each kind of rows that were left out or merged.
    """

    formulas: tuple[str, ...]
    target: FloatArray
    name: str
    fold: IntArray | None = None
    splits: tuple[tuple[IntArray, IntArray], ...] | None = None
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.formulas)

    def __getitem__(self, rows: IntArray | BoolArray) -> PropertyTable:
        """The rows of an index or mask; official splits are no longer known then."""
        index = np.arange(len(self))[rows]
        formulas = tuple(self.formulas[row] for row in index)
        fold = None if self.fold is None else self.fold[index]
        return replace(self, formulas=formulas, target=self.target[index], fold=fold, splits=None)

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """(N,) the composition of each row."""
        return tuple(reduced(amounts_of(formula)) for formula in self.formulas)

    @cached_property
    def groups(self) -> IntArray:
        """(N,) number of the composition of each row, in order of appearance."""
        seen: dict[Key, int] = {}
        return np.array([seen.setdefault(key, len(seen)) for key in self.keys], dtype=np.int64)


def read_table(
    path: str | Path, target: str | None = None, formula: str | None = None, duplicates: Duplicates = "mean"
) -> PropertyTable:
    """Read formulas with a property.

    Rows whose target is blank or no number, or whose formula cannot be read, are left out and said.

    Args:
        path: CSV, TSV, JSON (see :func:`megen_gym.agents.polysrl.columns.read_columns`) or Excel; or a folder with
            ``train0.csv``, ``val0.csv``, ``test0.csv``... whose folds, and rows, are then kept as they are.
        target: Column of the property; None for ``target``, or the only one with numbers.
        formula: Column of the formulas; None for one with a usual name.
        duplicates: What to do with rows of one composition (and one fold, where there is a column ``fold``): their
            ``mean`` (as published), the ``first``, the ``lowest``, or ``keep`` them all.

    Raises:
        InputError: for a file that cannot be read, a column that is not there (with the nearest) or cannot be told
            from others, and a table without any row that can be used.
    """
    if duplicates not in get_args(Duplicates):
        raise InputError(f"duplicates is {duplicates!r}; {nearest(str(duplicates), get_args(Duplicates))}")
    path = Path(path)
    if path.is_dir():
        return _folder(path, target, formula)
    table = _read(path, target, formula)
    return table if duplicates == "keep" else _merged(table, duplicates)


def _read(path: Path, target: str | None, formula: str | None) -> PropertyTable:
    columns = read_columns(path)
    texts, name = _formula_column(columns, formula, path), _target_column(columns, target, formula, path)
    values = np.array([as_number(cell) for cell in columns[name]])
    strange: dict[int, str] = {}
    spelled: list[str] = []
    for row, cell in enumerate(columns[texts]):
        spelled.append("" if cell is None else "".join(str(cell).split()))
        try:
            amounts_of(spelled[-1])
        except InputError as error:
            strange[row] = str(error)
    if len(strange) == len(spelled):
        raise InputError(
            f"no cell of the column {texts!r} of {path} is a formula ({strange[0]}); name the column of formulas"
        )
    readable = ~np.isin(np.arange(len(spelled)), list(strange))
    good = np.isfinite(values) & readable
    skipped = []
    if strange:
        row, reason = next(iter(strange.items()))
        skipped.append(f"{len(strange)} rows are left out whose formula cannot be read, e.g. row {row}: {reason}")
    if blank := int((readable & ~good).sum()):
        row = int(np.argmax(readable & ~good))
        cell = columns[name][row]
        skipped.append(f"{blank} rows are left out without a number in {name!r}, e.g. row {row}: {cell!r}")
    if not good.any():
        raise InputError(
            f"{path} has no row with a formula and a number in {name!r}; {skipped[0]}; choose another column"
        )
    formulas = tuple(spelled[row] for row in np.flatnonzero(good))
    fold = _fold_column(columns, path)
    return PropertyTable(formulas, values[good], name, None if fold is None else fold[good], None, tuple(skipped))


def _formula_column(columns: Columns, given: str | None, path: Path) -> str:
    if given is not None:
        return _named(columns, given, path)
    found = formula_column(list(columns))
    if found is None:
        raise InputError(f"{path} has the columns {', '.join(columns)}; name the one that holds formulas")
    return found


def _named(columns: Columns, given: str, path: Path) -> str:
    if given in columns:
        return given
    alike = [name for name in columns if simple(name) == simple(given)]
    if len(alike) != 1:
        raise InputError(f"{path} has no column {given!r}; {nearest(given, columns)}")
    return alike[0]


def _target_column(columns: Columns, given: str | None, formula: str | None, path: Path) -> str:
    if given is not None:
        return _named(columns, given, path)
    texts = _formula_column(columns, formula, path)
    numeric = [
        name
        for name, cells in columns.items()
        if name != texts and simple(name) not in _NO_PROPERTY and np.isfinite([as_number(cell) for cell in cells]).any()
    ]
    preferred = [name for name in numeric if simple(name) == "target"] or numeric
    if not preferred:
        raise InputError(f"{path} has the columns {', '.join(columns)}, none of them with numbers to predict; add one")
    if len(preferred) > 1:
        raise InputError(f"{path} has several columns with numbers: {', '.join(numeric)}; name the one to predict")
    return preferred[0]


def _fold_column(columns: Columns, path: Path) -> IntArray | None:
    name = next((name for name in columns if simple(name) in {simple(each) for each in FOLD_COLUMNS}), None)
    if name is None:
        return None
    blank = [cell is None or not str(cell).strip() for cell in columns[name]]
    folds = np.where(blank, -1, [as_number(cell) for cell in columns[name]])
    wrong = ~np.isfinite(folds) | (folds % 1 != 0)
    if wrong.any():
        cell = columns[name][int(np.argmax(wrong))]
        raise InputError(f"{path} has the fold {cell!r} in row {int(np.argmax(wrong))}; give whole numbers or blanks")
    return folds.astype(np.int64)


def _merged(table: PropertyTable, how: str) -> PropertyTable:
    """One row for each composition of each fold."""
    fold = np.full(len(table), -1) if table.fold is None else table.fold
    _, first, group, count = np.unique(
        np.stack([table.groups, fold]), axis=1, return_index=True, return_inverse=True, return_counts=True
    )
    repeated = int((count > 1).sum())
    if not repeated:
        return table
    low, high = np.full(len(first), np.inf), np.full(len(first), -np.inf)
    np.minimum.at(low, group, table.target)
    np.maximum.at(high, group, table.target)
    mean = np.bincount(group, table.target) / count
    target = {"mean": mean, "first": table.target[first], "lowest": low}[how]
    order = np.argsort(first)
    done = {"mean": "their mean is taken", "first": "the first is taken", "lowest": "the lowest is taken"}[how]
    sentence = (
        f"{len(table) - len(first)} of {len(table)} rows repeat a composition ({repeated} compositions, targets up to "
        f"{float((high - low).max()):.4g} apart); {done}"
    )
    return replace(table[first[order]], target=target[order], skipped=(*table.skipped, sentence))


def _folder(folder: Path, target: str | None, formula: str | None) -> PropertyTable:
    """Folds as CrabNet lays Matbench out: each a train, perhaps a val, and a test file."""
    found = {(m[1], int(m[2])): file for file in sorted(folder.iterdir()) if (m := _FOLDER_FILE.fullmatch(file.name))}
    numbers = sorted({fold for _, fold in found})
    if not numbers:
        raise InputError(f"the folder {folder} holds no folds; expected files train0.csv, val0.csv, test0.csv, ...")
    if missing := [f"{part}{fold}.csv" for fold in numbers for part in ("train", "test") if (part, fold) not in found]:
        raise InputError(f"the folder {folder} lacks {', '.join(missing)}; add what is missing, or remove that fold")
    rows: dict[tuple[Any, ...], int] = {}
    parts: dict[tuple[str, int], IntArray] = {}
    skipped: list[str] = []
    name = ""
    for part, file in found.items():
        table = _read(file, target, formula)
        name, times = table.name, Counter[tuple[str, float]]()
        index = []
        for pair in zip(table.formulas, table.target.tolist(), strict=True):
            index.append(rows.setdefault((*pair, times[pair]), len(rows)))
            times[pair] += 1
        parts[part] = np.array(index, dtype=np.int64)
        skipped += [f"{file.name}: {sentence}" for sentence in table.skipped]
    none = np.zeros(0, dtype=np.int64)
    splits = tuple(
        (np.concatenate([parts["train", fold], parts.get(("val", fold), none)]), parts["test", fold])
        for fold in numbers
    )
    formulas, values = [each[0] for each in rows], np.array([each[1] for each in rows])
    return PropertyTable(tuple(formulas), values, name, None, splits, tuple(skipped))
