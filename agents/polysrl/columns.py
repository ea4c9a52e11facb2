"""Files with a table of materials, as columns: CSV, TSV, Excel, and the many ways to write a table as JSON."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megen_gym.agents.crystal_gpt.reading import number
from megen_gym.errors import InputError, require
from megen_gym.formulas import amounts_of

FORMULA_COLUMNS = (
    "formula", "composition", "pretty_formula", "formula_pretty", "reduced_formula", "formula_reduced",
    "chemical_formula", "full_formula", "comp", "compound", "material",
)  # fmt: skip
"""Names of the column of formulas, in any case, with blanks or underscores; the first of them that is there counts."""

ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".json", ".json.gz", ".xlsx")

VALUE = "target"
"""Name of the values in a file that names none."""

Columns = dict[str, list[Any]]
"""Cells of each column: text, numbers or None."""


def read_columns(path: Path) -> Columns:
    """The columns of a table, all of one length, at least one row.

    JSON may hold a list of records, a dict of columns, ``{formula: value}``, ``{formula or id: record}``, or
    ``{"columns": [...], "data": [[...]]}`` as Matbench and pandas ("split") write it. A table without a header is
    understood where its first row is a formula with a number.

    Raises:
        InputError: for a file that is missing, empty, damaged, or of unknown ending or layout.
    """
    if not path.exists():
        raise InputError(f"the file {path} does not exist; give an existing table ({', '.join(ENDINGS)})")
    ending = next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), None)
    if ending is None:
        raise InputError(f"the file {path} has no known ending of a table; expected {', '.join(ENDINGS)}")
    if ending == ".xlsx":
        columns = _headed(_excel(path), path)
    elif ending.startswith(".json"):
        columns = _layout(read_json(path), path)
    else:
        columns = _headed(_separated(path, ending), path)
    if not columns or not max(map(len, columns.values())):
        raise InputError(f"{path} holds no rows; expected formulas with values")
    return columns


def text_of(path: Path) -> str:
    """The text of a file, unpacked where it ends in ``.gz``.

    Raises:
        InputError: for a damaged gzip file.
    """
    data = path.read_bytes()
    try:
        data = gzip.decompress(data) if path.suffix.lower() == ".gz" else data
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} is no complete gzip file ({error}); restore it") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_json(path: Path) -> Any:
    """What a JSON file holds, ``.gz`` or not.

    Raises:
        InputError: for anything else.
    """
    try:
        return json.loads(text_of(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is no complete JSON file ({error}); restore it") from None


def simple(name: str) -> str:
    """A column's name without case, blanks, dashes and underscores.

    >>> simple(" Pretty_Formula")
    'prettyformula'
    """
    return "".join(name.lower().replace("_", " ").replace("-", " ").split())


def formula_column(names: Sequence[str]) -> str | None:
    """Which of the `names` is the usual one of formulas."""
    known = {simple(name): name for name in reversed(names)}
    return next((known[simple(name)] for name in FORMULA_COLUMNS if simple(name) in known), None)


def as_number(cell: object) -> float:
    """A cell as a finite number, else NaN."""
    if isinstance(cell, str):
        value = number(cell)
        return math.nan if value is None else value
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return value if math.isfinite(value) else math.nan


def is_formula(text: object) -> bool:
    """Whether a cell can be read as a formula."""
    try:
        return bool(amounts_of(text))  # type: ignore[arg-type]
    except InputError:
        return False


def _separated(path: Path, ending: str) -> list[list[Any]]:
    text = text_of(path)
    first = text.lstrip("\n").partition("\n")[0]
    comma = max(",;\t", key=first.count) if "csv" in ending else "\t"
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=comma) if any(map(str.strip, row))]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a table ({error}); repair it") from None
    finally:
        csv.field_size_limit(before)


def _excel(path: Path) -> list[list[Any]]:
    """The first sheet."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        require("openpyxl", "tables")
    try:
        book = load_workbook(path, read_only=True, data_only=True)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no complete Excel file ({type(error).__name__}: {error}); restore it") from None
    rows = [list(row) for row in book.worksheets[0].iter_rows(values_only=True)]
    book.close()
    return [row for row in rows if any(cell is not None and str(cell).strip() for cell in row)]


def _headed(rows: list[list[Any]], path: Path) -> Columns:
    """Columns of rows, of which the first is a header unless it is a formula with a number."""
    if not rows:
        raise InputError(f"the file {path} is empty; expected a header and rows")
    header = ["" if cell is None else str(cell).strip() for cell in rows[0]]
    numbers = [not math.isnan(as_number(cell)) for cell in rows[0]]
    formula = next((at for at, name in enumerate(header) if is_formula(name)), None)
    if formula is not None and any(numbers) and not numbers[formula]:
        header = [f"column {at}" for at in range(1, len(header) + 1)]
        header[formula] = FORMULA_COLUMNS[0]
    else:
        rows = rows[1:]
    names: dict[str, int] = {}
    for at, name in enumerate(header):
        if name:
            names.setdefault(name, at)
    return {name: [row[at] if at < len(row) else None for row in rows] for name, at in names.items()}


def _layout(data: Any, path: Path) -> Columns:
    """Columns of what a JSON file holds."""
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        return _records(data)
    if isinstance(data, list) and data and all(isinstance(row, list) for row in data):
        return _headed(data, path)
    if isinstance(data, dict) and isinstance(data.get("data"), list) and isinstance(data.get("columns"), list):
        rows = [row if isinstance(row, list) else [row] for row in data["data"]]
        return _headed([[str(name) for name in data["columns"]], *rows], path)
    if isinstance(data, dict) and data:
        values = list(data.values())
        named = formula_column(list(data)) is not None
        if named and all(isinstance(value, dict) for value in values):
            values = [list(value.values()) for value in values]
        if named and all(isinstance(value, list) for value in values):
            lengths = {name: len(value) for name, value in zip(data, values, strict=True)}
            if len(set(lengths.values())) > 1:
                raise InputError(f"the columns of {path} have unequal lengths {lengths}; make them equal")
            return dict(zip(data, values, strict=True))
        if all(isinstance(value, dict) for value in values):
            columns = _records(values)
            key = FORMULA_COLUMNS[0] if formula_column(list(columns)) is None else "key"
            return {key: list(data)} | columns
        if not any(isinstance(value, dict) for value in values):
            pairs = [(k, cell) for k, value in data.items() for cell in (value if isinstance(value, list) else [value])]
            return {FORMULA_COLUMNS[0]: [formula for formula, _ in pairs], VALUE: [value for _, value in pairs]}
    raise InputError(
        f"{path} holds no table; expected a list of records, columns, {{formula: value}} or the layout of Matbench"
    )


def _records(rows: Sequence[Mapping[str, Any]]) -> Columns:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
