"""Charts of the columns of a run's metrics: training and evaluation of one quantity share a chart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from megen_gym.report.content import Chart, Series
from megen_gym.structure import FloatArray

PLACES = {"steps": "environment steps", "epoch": "epoch", "iteration": "iteration"}
"""Columns of the horizontal axis, the first that is there, and their labels."""

UNITS = {
    r"energy(_.*)?": "eV", r"(cpu_)?seconds": "s", r"min_distance|w1_.*": "Å", r"kl": "nats",
    r"valid.*|refused_moves|truncated|finished|rewarded|hit_.*|right_.*": "share",
}  # fmt: skip
"""Units by the name of a quantity."""

ORDER = (
    r"(val|nll|miss|score|loss|cost|distance_dis|D)(_.*)?",
    r"return|reward",
    r"energy.*",
    r"valid.*|finished|hit_.*|within",
    r".*(?<!lr)(?<!rate)(?<!seconds)(?<!updates)(?<!evaluations)(?<!steps)(?<!episodes)",
)
"""What comes first; parts of a policy-gradient loss, which say little about success, come after what is achieved."""

WORDS = {
    "kl": "KL",
    "lr": "learning rate",
    "n": "number of",
    "w1": "W1",
    "std": "standard deviation",
    "approx": "approximate",
}
"""What abbreviations in the names of columns mean."""

HELD_OUT = re.compile(r"(val|nll)(_.*)?")
STATISTIC = re.compile(r"(.+)_(mean|std|best|real|fake)")


NAMED = {"best": "best", "std": "standard deviation", "real": "real", "fake": "generated"}
"""Statistics that a legend names."""


class Column(NamedTuple):
    """What a column of the metrics is.

    Attributes:
        quantity: The chart that it belongs to.
        of: "training", "evaluation" or "held out".
        statistic: "mean", "std", "best", "real", "fake" or "".
    """

    quantity: str
    of: str
    statistic: str


def charts(*tables: Mapping[str, FloatArray]) -> list[Chart]:
    """One chart for each quantity, the most telling first.

    Args:
        *tables: (N,) values by name, one of them named as in `PLACES`; NaN where nothing was measured.

    Returns:
        Charts; a mean with a standard deviation gets a band. Quantities that never change come last.
    """
    found = [one for columns in tables for one in _ranked(columns)]
    return [chart for _, chart in sorted(found, key=lambda one: one[0])]


def _ranked(columns: Mapping[str, FloatArray]) -> list[tuple[int, Chart]]:
    place = next((name for name in PLACES if name in columns), None)
    if place is None:
        return []
    parsed = {name: column_of(name, columns) for name in columns if name not in PLACES}
    quantities: dict[str, list[str]] = {}
    for name, column in parsed.items():
        if np.isfinite(columns[name]).any():
            quantities.setdefault(column.quantity, []).append(name)
    return [
        (rank(quantity, [columns[n] for n in names]), _chart(quantity, {n: parsed[n] for n in names}, columns, place))
        for quantity, names in quantities.items()
    ]


def column_of(name: str, names: Mapping[str, object]) -> Column:
    """What the column `name` is, among all `names`.

    >>> column_of("eval/return_mean", {"return_mean": 0})
    Column(quantity='return', of='evaluation', statistic='mean')
    >>> column_of("val_type", {"loss_type": 0}), column_of("loss_type", {}).quantity
    (Column(quantity='loss_type', of='held out', statistic=''), 'loss_type')
    """
    if (found := HELD_OUT.fullmatch(name)) and (partner := f"loss{found[2] or ''}") in names:
        return Column(partner, "held out", "")
    of, rest = ("evaluation", name.removeprefix("eval/")) if name.startswith("eval/") else ("training", name)
    statistic = STATISTIC.fullmatch(rest)
    return Column(statistic[1], of, statistic[2]) if statistic else Column(rest, of, "")


def rank(quantity: str, values: Sequence[FloatArray]) -> int:
    """Place of a quantity among the charts."""
    known = [one[np.isfinite(one)] for one in values]
    if all(len(one) == 0 or (len(one) > 1 and np.ptp(one) == 0) for one in known):
        return len(ORDER) + 1
    part = len(ORDER) - 1 if quantity.startswith("loss/") else 0
    found = (at for at, pattern in enumerate(ORDER) if re.fullmatch(pattern, quantity))
    return max(part, next(found, len(ORDER)))


def _chart(quantity: str, names: Mapping[str, Column], columns: Mapping[str, FloatArray], place: str) -> Chart:
    series = []
    for name, column in names.items():
        if column.statistic == "std" and name.removesuffix("_std") + "_mean" in names:
            continue
        known = np.isfinite(columns[name]) & np.isfinite(columns[place])
        x, y = columns[place][known], columns[name][known]
        spread = columns.get(name.removesuffix("_mean") + "_std") if column.statistic == "mean" else None
        band = (None, None) if spread is None else (y - spread[known], y + spread[known])
        series.append(Series(_label(column, list(names.values())), x, y, *band))
    words = quantity.removeprefix("loss/").split("_")
    title = " ".join(WORDS.get(word, word) for word in words)
    unit = next((unit for pattern, unit in UNITS.items() if re.fullmatch(pattern, quantity)), "")
    y_label, y_range = f"{title} ({unit})" if unit else title, (0.0, 1.0) if unit == "share" else None
    return Chart(title[:1].upper() + title[1:], PLACES[place], y_label, series, y_range=y_range)


def _label(column: Column, all_columns: Sequence[Column]) -> str:
    """What tells a line from the others of its chart; nothing where it is alone. A mean needs no name."""
    words = [column.of] if len({one.of for one in all_columns}) > 1 or column.of != "training" else []
    if column.statistic in NAMED:
        words.append(NAMED[column.statistic])
    alone = len([one for one in all_columns if one.statistic != "std"]) == 1
    return ", ".join(words) or ("" if alone else "mean")
