"""The table of metrics of generated crystals: value, and what real crystals reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from megen_gym.analysis.table import NONE, Style, render


@dataclass(frozen=True)
class CrystalRow:
    """One metric.

    Attributes:
        metric: Its name.
        unit: "%" (the numbers are shares 0-1), g/cm³, or "".
        value: Of the generated crystals; NaN where none is left to judge.
        floor: Of real crystals in their place.
        meaning: What it is the share or distance of, and how the floor is made.
    """

    metric: str
    unit: str
    value: float
    floor: float
    meaning: str


@dataclass(frozen=True)
class CrystalReport:
    """The outcome of :func:`crystal_report`.

    Attributes:
        rows: One per metric.
        left_out: One sentence for each metric that is missing.
    """

    rows: tuple[CrystalRow, ...]
    left_out: tuple[str, ...] = ()

    def __getitem__(self, metric: str) -> CrystalRow:
        return {row.metric: row for row in self.rows}[metric]

    def table(self, style: Style = "text", *, explain: bool = False) -> str:
        """The rows as aligned text, Markdown or CSV (shares 0-1), and below them what is left out.

        Args:
            style: ``"text"``, ``"markdown"`` or ``"csv"``; CSV holds the rows alone.
            explain: Add what each metric means.
        """
        if style == "csv":
            cells = [["metric", "unit", "value", "floor"]]
            numbers = [[f"{x:.8g}" if np.isfinite(x) else NONE for x in (row.value, row.floor)] for row in self.rows]
            units = ["1" if row.unit == "%" else row.unit for row in self.rows]
            names = [row.metric for row in self.rows]
            return render([*cells, *([n, u, *x] for n, u, x in zip(names, units, numbers, strict=True))], "csv")
        cells = [["metric", "generated", "floor (data)"]]
        for row in self.rows:
            name = f"{row.metric} ({row.unit})" if row.unit not in ("", "%") else row.metric
            cells.append([name, *(_shown(x, row.unit) for x in (row.value, row.floor))])
        notes = [f"{row.metric}: {row.meaning}." for row in self.rows] if explain else []
        lines = [f"- {note}" if style == "markdown" else note for note in (*notes, *self.left_out)]
        return "\n".join([render(cells, style), *([""] if lines else []), *lines])


def _shown(value: float, unit: str) -> str:
    if not np.isfinite(value):
        return NONE
    return f"{100 * value:.2f} %" if unit == "%" else f"{value:.4f}"
