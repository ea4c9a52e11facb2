"""Learning curves: runs that differ in nothing but the seed become one line, mean and spread."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from megen_gym import runs
from megen_gym.errors import InputError, nearest
from megen_gym.runs import Run
from megen_gym.structure import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Mode = Literal["train", "eval", "all"]

QUANTITIES = {
    "return_mean": "mean return",
    "valid_moves": "share of valid placements",
    "valid_structures": "share of valid structures",
    "energy_best": "best energy (eV)",
}
"""What is drawn by default, one panel each: column of ``metrics.csv`` without ``eval/``, and its axis label."""

MOST_NAMED = 3
"""Runs that differ in more settings than this are named by their id."""

IRRELEVANT = {"seed", "dir", "device", "resume", "progress", "log_level"}
"""Settings that do not make runs different experiments."""


def grouped(found: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs whose settings agree except for the seed, by a label that names what distinguishes the groups."""
    groups: dict[str, list[Run]] = {}
    for run in found:
        key = {name: value for name, value in run.settings.items() if name not in IRRELEVANT}
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(run)
    settings = [json.loads(key) for key in groups]
    names = sorted({name for one in settings for name in one})
    differ = [name for name in names if len({json.dumps(one.get(name), sort_keys=True) for one in settings}) > 1]
    if len(differ) > MOST_NAMED:
        return {group[0].id: group for group in groups.values()}
    labels = [", ".join(f"{name}={one.get(name)}" for name in differ) for one in settings]
    default = str(settings[0].get("name") or settings[0].get("env") or "run") if settings else ""
    return {label or default: group for label, group in zip(labels, groups.values(), strict=True)}


def mean_curve(curves: Sequence[tuple[FloatArray, FloatArray]]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mean and standard deviation over several curves (x, y) at every x that occurs, each within its own range only.

    >>> curves = [(np.array([0.0, 2.0]), np.array([0.0, 2.0])), (np.array([0.0, 1.0]), np.array([2.0, 3.0]))]
    >>> x, mean, spread = mean_curve(curves)
    >>> x.tolist(), mean.tolist(), spread.tolist()
    ([0.0, 1.0, 2.0], [1.0, 2.0, 2.0], [1.0, 1.0, 0.0])
    """
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    table = np.stack([np.interp(grid, x, y, left=np.nan, right=np.nan) for x, y in curves])
    return grid, np.nanmean(table, axis=0), np.nanstd(table, axis=0)


def plot_learning_curves(
    dir: list[str] | str = "runs",
    name: str | None = None,
    mode: Mode = "all",
    columns: list[str] | None = None,
    baseline: float | None = None,
    min_num_steps: float = 0,
    max_num_steps: float | None = None,
    output: Path | None = None,
) -> Path:
    """Draw the learning curves of one or several runs: mean and standard deviation over runs that differ in the seed.

    Args:
        dir: A folder of runs, one run folder, or a list of such: --dir=[runs/a,runs/b].
        name: Id of a single run in dir.
        mode: Draw what was measured in training (solid), in evaluation (dashed), or all.
        columns: Columns of metrics.csv to draw, one panel each (the prefix eval/ may be left out).
        baseline: Draw a horizontal line at this return, e.g. of a random policy.
        min_num_steps: Leave out what lies before this step.
        max_num_steps: Leave out what lies after this step.
        output: The picture; by default learning_curve.png in the run or in the first folder of runs.

    Returns:
        Path of the picture.
    """
    folders = [dir] if isinstance(dir, str) else list(dir)
    if not folders:
        raise InputError("no folder was given; give at least one folder of runs")
    found = [run for one in folders for run in ([runs.locate(one, name)] if name else runs.every(one))]
    found = list({run.path.resolve(): run for run in found}.values())
    tables = {run.path: run.metrics() for run in found}
    found = [run for run in found if tables[run.path]]
    if not found:
        raise InputError(f"no run in {', '.join(folders)} has completed an iteration yet; wait or train anew")
    path = output or (found[0].path if len(found) == 1 else Path(folders[0])) / "learning_curve.png"
    if path.suffix != ".png":
        raise InputError(f"cannot draw to {path}; expected a name that ends in .png")
    limits = (min_num_steps, np.inf if max_num_steps is None else max_num_steps)
    picture = _draw(grouped(found), tables, _panels(tables, columns, mode), baseline, limits)
    runs.write_bytes(path, picture)
    print(path)
    return path


def _panels(tables: dict[Path, dict[str, FloatArray]], columns: list[str] | None, mode: Mode) -> dict[str, list[str]]:
    """Columns by panel title, training first."""
    present = {name for table in tables.values() for name, values in table.items() if np.isfinite(values).any()}
    wanted = {column.removeprefix("eval/"): column.removeprefix("eval/") for column in columns or ()} or QUANTITIES
    prefixes = {"train": ("",), "eval": ("eval/",), "all": ("", "eval/")}[mode]
    panels = {title: [p + column for p in prefixes if p + column in present] for column, title in wanted.items()}
    panels = {title: found for title, found in panels.items() if found}
    if not panels:
        asked = next(iter(wanted))
        raise InputError(f"metrics.csv has no column {', '.join(wanted)} for mode {mode}; {nearest(asked, present)}")
    return panels


def _draw(
    groups: dict[str, list[Run]],
    tables: dict[Path, dict[str, FloatArray]],
    panels: dict[str, list[str]],
    baseline: float | None,
    limits: tuple[float, float],
) -> bytes:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained", dpi=150)
    for axes, (title, columns) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for colour, (label, group) in enumerate(groups.items()):
            for column in columns:
                curves = [curve for run in group if len((curve := _curve(tables[run.path], column, limits))[0])]
                if curves:
                    style = "--" if column.startswith("eval/") and len(columns) > 1 else "-"
                    _line(axes, curves, f"C{colour % 10}", style, label + _kind(column, columns), len(group))
        if baseline is not None and "return" in columns[0]:
            axes.axhline(baseline, color="0.4", linestyle=":", label="baseline")
        axes.set(xlabel="environment steps" if _has_steps(tables) else "iteration", ylabel=title)
        if title.startswith("share"):
            axes.set_ylim(0, 1.03)
        axes.grid(alpha=0.3)
        axes.locator_params(axis="x", nbins=6)
    drawn = {text: line for axes in figure.axes for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(drawn.values()), list(drawn), loc="outside lower center", ncols=4, fontsize="x-small")
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return data.getvalue()


def _kind(column: str, columns: list[str]) -> str:
    return "" if len(columns) == 1 else ", evaluation" if column.startswith("eval/") else ", training"


def _has_steps(tables: dict[Path, dict[str, FloatArray]]) -> bool:
    return all("steps" in table for table in tables.values() if table)


def _curve(table: dict[str, FloatArray], column: str, limits: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    x = table.get("steps", table["iteration"])
    y = table.get(column, np.full(len(x), np.nan))
    keep = np.isfinite(x) & np.isfinite(y) & (x >= limits[0]) & (x <= limits[1])
    return x[keep], y[keep]


def _line(
    axes: Axes, curves: list[tuple[FloatArray, FloatArray]], colour: str, style: str, label: str, seeds: int
) -> None:
    x, mean, spread = mean_curve(curves)
    marker = "." if len(x) < 3 else None
    axes.plot(x, mean, style, color=colour, marker=marker, label=label + (f" ({seeds} seeds)" if seeds > 1 else ""))
    if len(curves) > 1:
        axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)
