"""Curves over the budget: best value, low minima and share of solved seeds, each with its spread over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from megen_gym.arena.measure import MOST, comparable, distinct, distinct_minima
from megen_gym.arena.results import Played, grouped
from megen_gym.figures import save, subplots
from megen_gym.structure import FloatArray

POINTS = 200
"""Places along the budget."""


class Curve(NamedTuple):
    """A line with its band.

    Attributes:
        label: Policy.
        x: (P,) evaluations.
        middle: (P,) median over the seeds, or a share.
        low: (P,) lower quartile.
        high: (P,) upper quartile.
    """

    label: str
    x: FloatArray
    middle: FloatArray
    low: FloatArray
    high: FloatArray


class Panel(NamedTuple):
    """Curves that belong together."""

    title: str
    label: str
    curves: list[Curve]


def panels(played: Sequence[Played]) -> list[Panel]:
    """The panels of a comparison, three for each task at most."""
    made = []
    tasks = list(dict.fromkeys(one.row.task for one in played))
    for task in tasks:
        cells = [one for one in played if one.row.task == task and not one.row.error]
        if not cells:
            continue
        behind = f": {task}" if len(tasks) > 1 else ""
        groups = {policy: group for (_, policy), group in grouped(cells).items()}
        grid = np.unique(np.geomspace(1, max(one.outcome.cell.budget for one in cells), POINTS).round())
        unit = "eV/atom" if cells[0].per_atom else "eV"
        value = f"best energy ({unit})" if cells[0].outcome.energy else "best return"
        made.append(Panel(f"Best so far{behind}", value, [_curve(p, grid, g, _best) for p, g in groups.items()]))
        made.append(
            Panel(
                f"Low minima found{behind}", "distinct minima", [_curve(p, grid, g, _minima) for p, g in groups.items()]
            )
        )
        if any(one.outcome.target is not None for one in cells):
            made.append(
                Panel(
                    f"Known minimum found{behind}", "share of seeds", [_solved(p, grid, g) for p, g in groups.items()]
                )
            )
    return made


def _curve(label: str, grid: FloatArray, group: Sequence[Played], of: object) -> Curve:
    lines = np.stack([of(one, grid) for one in group])  # type: ignore[operator]
    known = np.isfinite(lines).all(0)
    quartiles = np.full((3, len(grid)), np.nan)
    if known.any():
        quartiles[:, known] = np.percentile(lines[:, known], (25, 50, 75), axis=0)
    return Curve(label, grid, quartiles[1], quartiles[0], quartiles[2])


def _steps(grid: FloatArray, at: FloatArray, values: FloatArray) -> FloatArray:
    """What holds at each place of the grid, of values that hold from `at` on; NaN before the first."""
    index = np.searchsorted(at, grid, side="right")
    return np.asarray(np.concatenate([[np.nan], values])[index])


def _best(one: Played, grid: FloatArray) -> FloatArray:
    finds = one.finds
    good = finds.valid & np.isfinite(finds.value)
    value = finds.value[good]
    if one.per_atom:
        value = value / np.maximum((finds.species[good] > 0).sum(1), 1)
    best = np.minimum.accumulate(value) if len(value) else value
    return _steps(grid, finds.evaluations[good].astype(float), best if one.outcome.energy else -best)


def _minima(one: Played, grid: FloatArray) -> FloatArray:
    finds = one.finds
    rows = np.flatnonzero(one.low & (finds.minimum | (not one.outcome.relaxed)))
    rows = np.sort(rows[np.argsort(comparable(finds, one.per_atom)[rows], kind="stable")][:MOST])
    batch = finds.batch(one.outcome.symbols, one.outcome.pbc)[rows]
    new = rows[distinct_minima(batch, finds.value[rows]) if one.outcome.relaxed else distinct(batch)]
    count = _steps(grid, finds.evaluations[new].astype(float), np.arange(1, len(new) + 1, dtype=float))
    return np.nan_to_num(count)


def _solved(label: str, grid: FloatArray, group: Sequence[Played]) -> Curve:
    hits = np.array([np.inf if one.outcome.hit is None else one.outcome.hit for one in group])
    share = (hits[:, None] <= grid).mean(0)
    return Curve(label, grid, share, share, share)


def plot(path: Path, shown: Sequence[Panel]) -> None:
    """Draw the panels into a PNG."""
    columns, rows = min(len(shown), 3), -(-len(shown) // 3)
    figure, grid = subplots(rows, columns, (5.2 * columns, 3.8 * rows))
    axes = grid.ravel()
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes, shown, strict=False):
        for curve in panel.curves:
            (line,) = axis.plot(curve.x, curve.middle, label=curve.label)
            axis.fill_between(curve.x, curve.low, curve.high, color=line.get_color(), alpha=0.2, linewidth=0)
        axis.set(xscale="log", xlabel="energy evaluations", ylabel=panel.label, title=panel.title)
        axis.set_xlim(1, max(panel.curves[0].x[-1], 2))
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    save(figure, path)
