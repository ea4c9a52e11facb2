"""The table of metrics of generated molecules: value, and what real molecules reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megen_gym.analysis.table import NONE, Style, render
from megen_gym.structure import FloatArray


@dataclass(frozen=True)
class MoleculeRow:
    """One metric.

    Attributes:
        name: What it is called.
        value: Of the samples; NaN where none is left to judge.
        floor: Of real molecules in their place.
        unit: "%" (the numbers are shares 0-1), Å, °, eV, bit, or "".
        n: How many molecules (of a kind of bonds or angles: how many of them) the value is of.
        meaning: What it is the share, mean or distance of.
    """

    name: str
    value: float
    floor: float
    unit: str
    n: int
    meaning: str = ""


@dataclass(frozen=True, eq=False)
class MoleculeReport:
    """The outcome of :func:`~megen_gym.analysis.molecule_report.report`.

    Attributes:
        rows: One per metric.
        kinds: One per kind of bonds and angles, from the most frequent one down.
        values: The property of each valid sample and of each real molecule beside them, NaN where it failed.
    """

    rows: tuple[MoleculeRow, ...]
    kinds: tuple[MoleculeRow, ...] = ()
    values: tuple[FloatArray, FloatArray] | None = None

    def __getitem__(self, name: str) -> MoleculeRow:
        return {row.name: row for row in (*self.kinds, *self.rows)}[name]

    def table(self, style: Style = "text", *, kinds: bool = False, explain: bool = False) -> str:
        """The rows as aligned text, Markdown or CSV (shares 0-1).

        Args:
            style: ``"text"``, ``"markdown"`` or ``"csv"``.
            kinds: Add the rows of the kinds of bonds and angles.
            explain: Add what each metric means, except in CSV.

        >>> row = MoleculeRow("valid", 0.61, 0.955, "%", 100)
        >>> print(MoleculeReport((row,)).table())
        metric  samples  floor (data)    n
        valid   61.00 %       95.50 %  100
        """
        rows = (*self.rows, *(self.kinds if kinds else ()))
        if style == "csv":
            cells = [[row.name, _exact(row.value), _exact(row.floor), _unit(row.unit), str(row.n)] for row in rows]
            return render([["name", "value", "floor", "unit", "n"], *cells], "csv")
        head = ["metric", "samples", "floor (data)", "n"]
        cells = [[_title(row), _shown(row.value, row.unit), _shown(row.floor, row.unit), str(row.n)] for row in rows]
        notes = [f"{row.name}: {row.meaning}." for row in rows if row.meaning] if explain else []
        lines = [f"- {note}" if style == "markdown" else note for note in notes]
        return "\n".join([render([head, *cells], style), *([""] if lines else []), *lines])


def _title(row: MoleculeRow) -> str:
    return f"{row.name} ({row.unit})" if row.unit not in ("", "%") else row.name


def _unit(unit: str) -> str:
    return "1" if unit == "%" else unit


def _exact(value: float) -> str:
    return f"{value:.8g}" if np.isfinite(value) else NONE


def _shown(value: float, unit: str) -> str:
    if not np.isfinite(value):
        return NONE
    return f"{100 * value:.2f} %" if unit == "%" else f"{value:.4f}"
