"""The tables of a comparison: a line for each seed, and one for each policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from megen_gym import runs
from megen_gym.analysis.table import NONE, Style, render
from megen_gym.arena.measure import Row
from megen_gym.arena.results import Played, errors, grouped


def seeds_table(played: Sequence[Played], style: Style = "csv") -> str:
    """One line for each seed, all columns."""
    names = [field.name for field in fields(Row)]
    cells = [[_exact(getattr(one.row, name)) for name in names] for one in played]
    return render([names, *cells], style)


def policies_table(played: Sequence[Played], style: Style = "markdown") -> str:
    """One line for each policy: means over the seeds and their standard deviations, medians for the first hit."""
    if style != "csv":
        return render(markdown_cells(played), style)
    columns, lines = _columns(played), []
    for (task, policy), group in grouped(played).items():
        good = [one for one in group if not one.row.error]
        numbers = [_exact(number) for column in columns.values() for number in column.numbers(good)]
        why = next((one.row.error for one in group if one.row.error), "")
        lines.append([task, policy, str(len(group)), str(len(group) - len(good)), *numbers, why])
    names = [name for column in columns.values() for name in column.names]
    return render([["task", "policy", "seeds", "failed", *names, "error"], *lines], "csv")


def markdown_cells(played: Sequence[Played]) -> list[list[str]]:
    """The table by policy as people read it, its header first."""
    columns, groups = _columns(played), grouped(played)
    several = len({task for task, _ in groups}) > 1
    cells = [["policy", *(["task"] if several else []), "seeds", *columns]]
    for (task, policy), group in groups.items():
        good = [one for one in group if not one.row.error]
        shown = [column.shown(good) if good else NONE for column in columns.values()]
        cells.append([policy, *([task] if several else []), f"{len(good)}/{len(group)}", *shown])
    return cells


@dataclass(frozen=True)
class _Column:
    """A column of the table by policy.

    Attributes:
        names: In the CSV.
        numbers: From the cells of a policy.
        shown: The same in words.
    """

    names: tuple[str, ...]
    numbers: Callable[[Sequence[Played]], tuple[float, ...]]
    shown: Callable[[Sequence[Played]], str]


def _mean(name: str, key: str, show: str, scale: float = 1.0) -> _Column:
    def numbers(group: Sequence[Played]) -> tuple[float, ...]:
        values = np.array([getattr(one.row, key) for one in group] or [np.nan], dtype=float)
        known = values[np.isfinite(values)]
        return (float(known.mean()), float(known.std())) if len(known) else (np.nan, np.nan)

    def shown(group: Sequence[Played]) -> str:
        mean, spread = (scale * number for number in numbers(group))
        if not np.isfinite(mean):
            return NONE
        return show.format(mean) + (f" ± {show.format(spread)}" if len(group) > 1 else "")

    return _Column((name, f"{name}_std"), numbers, shown)


def _best() -> _Column:
    def numbers(group: Sequence[Played]) -> tuple[float, ...]:
        values = np.array([one.row.best for one in group] or [np.nan])
        known = values[np.isfinite(values)]
        if not len(known):
            return np.nan, np.nan, np.nan
        best = known.min() if group[0].outcome.energy else known.max()
        return float(best), float(known.mean()), float(known.std())

    def shown(group: Sequence[Played]) -> str:
        best, mean, spread = numbers(group)
        if not np.isfinite(best):
            return NONE
        return f"{best:.3f}" + (f" ({mean:.3f} ± {spread:.3f})" if len(group) > 1 else "")

    return _Column(("best", "best_mean", "best_std"), numbers, shown)


def _hits() -> _Column:
    def numbers(group: Sequence[Played]) -> tuple[float, ...]:
        values = np.array([one.row.hit for one in group] or [np.nan])
        late = np.where(np.isfinite(values), values, np.inf)
        return float(np.isfinite(values).sum()), float(np.median(late))

    def shown(group: Sequence[Played]) -> str:
        count, median = numbers(group)
        return (
            NONE
            if not count
            else f"{median:.0f} ({count:.0f}/{len(group)})"
            if np.isfinite(median)
            else (f"> budget ({count:.0f}/{len(group)})")
        )

    return _Column(("hits", "first_hit_median"), numbers, shown)


def _columns(played: Sequence[Played]) -> dict[str, _Column]:
    """By title; columns that nobody knows are left out."""
    energy = all(one.outcome.energy for one in played)
    unit = " (eV/atom)" if all(one.per_atom for one in played) else " (eV)"
    if len({one.per_atom for one in played}) > 1:
        unit = " (eV, or eV/atom where sizes differ)"
    columns = {
        "structures": _mean("structures", "structures", "{:.0f}"),
        "valid (%)": _mean("valid", "valid", "{:.1f}", 100),
        "unique (%)": _mean("unique", "unique", "{:.1f}", 100),
        "novel (%)": _mean("novel", "novel", "{:.1f}", 100),
        f"best energy{unit}" if energy else "best": _best(),
        "low minima": _mean("minima", "minima", "{:.1f}"),
        "first hit": _hits(),
        "evaluations": _mean("evaluations", "evaluations", "{:.0f}"),
        "CPU s": _mean("cpu", "cpu", "{:.1f}"),
    }
    if not any(np.isfinite(one.row.novel) for one in played):
        del columns["novel (%)"]
    if not any(one.outcome.target is not None for one in played):
        del columns["first hit"]
    return columns


def _exact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.10g}" if not np.isnan(value) else ""
    return str(value)


def write_tables(folder: Path, settings: Mapping[str, Any], played: Sequence[Played]) -> None:
    """``table.csv``, ``table.md`` and ``seeds.csv``."""
    runs.write_text(folder / "seeds.csv", seeds_table(played) + "\n")
    runs.write_text(folder / "table.csv", policies_table(played, "csv") + "\n")
    lines = [policies_table(played, "markdown"), "", *notes(settings, played)]
    runs.write_text(folder / "table.md", "\n".join(lines) + "\n")


def notes(settings: Mapping[str, Any], played: Sequence[Played]) -> list[str]:
    """What a reader of the table has to know."""
    judge = "energy" if all(one.outcome.energy for one in played) else "reward"
    said = [f"Budget: {settings['budget']} evaluations of the {judge} for each policy and seed."]
    relaxed = dict.fromkeys(one.row.task for one in played if one.outcome.relaxed)
    if relaxed:
        where = "" if len(relaxed) == len({one.row.task for one in played}) else f" in {', '.join(relaxed)}"
        said.append(f"Structures are relaxed{where}, and each evaluation on the way counts.")
    window = settings.get("window")
    unit = "eV/atom" if played and all(one.per_atom for one in played) else "eV"
    above = "a tenth of its size" if window is None else f"{window:g} {unit}"
    said.append(f"Low minima: distinct valid structures up to {above} above the best known value.")
    if relaxed:
        said.append(
            "Relaxed until the forces are small: saddle points are among what is counted, symmetric ones above all."
        )
    if any("LJCluster" in one.row.task or "lennard_jones" in one.row.task for one in played):
        said.append("Under lennard_jones an energy of 1 eV is 1 epsilon, unless epsilon was given.")
    said += [f"{who} failed: {why}" for who, why in errors(played).items()]
    if errors(played):
        said.append("What failed in full: error.txt in the folder of the cell, below cells/.")
    return said
