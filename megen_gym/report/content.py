"""What a report holds: tables, charts, histograms and structures, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms

from megen_gym.errors import InputError
from megen_gym.structure import FloatArray


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        caption: What it shows.
        header: Names of the columns.
        rows: One text per column each.
        note: Sentences below it, one in a line.
        folded: Whether it is closed until a reader opens it.

    Raises:
        InputError: if a row does not fit the header.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    folded: bool = False

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise InputError(
                    f"row {index} of the table {self.caption!r} has {len(row)} cells for {len(self.header)} columns; "
                    "give one cell for each column"
                )


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        label: Its name in the legend.
        x: (N,) places on the horizontal axis.
        y: (N,) values, such as a mean over seeds; where one is NaN there is no point.
        low: (N,) lower edge of the band around the line; no band without it.
        high: (N,) upper edge.

    Raises:
        InputError: if the arrays differ in shape, or one edge of the band is missing.
    """

    label: str
    x: FloatArray
    y: FloatArray
    low: FloatArray | None = None
    high: FloatArray | None = None

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise InputError(f"the series {self.label!r} has one edge of its band only; give low and high, or neither")
        for name in ("y", "low", "high"):
            values = getattr(self, name)
            if values is not None and (np.shape(values) != np.shape(self.x) or np.ndim(values) != 1):
                raise InputError(
                    f"the series {self.label!r} has x of shape {np.shape(self.x)} and {name} of shape "
                    f"{np.shape(values)}; give one {name} for each x"
                )


@dataclass(frozen=True)
class Chart:
    """Lines over one pair of axes.

    Attributes:
        title: Above the chart.
        x_label: Quantity and unit of the horizontal axis.
        y_label: Quantity and unit of the vertical axis.
        series: The lines.
        log_x: Whether the horizontal axis is logarithmic; points at or below 0 are then left out.
        y_range: Values that the vertical axis covers in any case.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_x: bool = False
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Histogram:
    """Distributions over one axis, one row for each group.

    Attributes:
        title: Above the histogram.
        x_label: Quantity and unit of the axis.
        groups: (N,) values by name; those that are not finite are left out.
    """

    title: str
    x_label: str
    groups: Mapping[str, FloatArray]


@dataclass(frozen=True)
class Report:
    """One page.

    Attributes:
        title: Heading.
        summary: What a reader should know first, by name.
        tables: In this order.
        charts: In this order; those after the eighth are closed until a reader opens them.
        histograms: In this order.
        structures: For the gallery. ``info`` may hold "energy" (eV; a calculator's result is taken too), "policy" (the
            group) and other numbers and texts, which are shown beside the structure.
    """

    title: str
    summary: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    histograms: Sequence[Histogram] = ()
    structures: Sequence[Atoms] = ()
