"""The quality table: policies as rows, the same columns wherever it is printed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from megen_gym.analysis.unique import Method, unique
from megen_gym.analysis.validity import valid_clusters
from megen_gym.errors import InputError, nearest
from megen_gym.rules import PlacementRules
from megen_gym.structure import BoolArray, StructureBatch

Style = Literal["text", "markdown", "csv"]
NONE = "-"


@dataclass(frozen=True)
class Quality:
    """What one policy made. Energies are those of *valid* structures: an overlap's energy says nothing.

    Attributes:
        policy: Its name.
        structures: Number of structures.
        valid: Share of them that is valid, 0-1.
        unique: Share of the valid ones that is not a duplicate of another one, 0-1; NaN if none is valid.
        best: eV, lowest energy; NaN if unknown.
        mean: eV, mean energy.
        best_per_atom: eV/atom; what to compare where sizes differ.
        mean_per_atom: eV/atom.
        above: eV, smallest distance to the best energy known for the composition; negative if better.
        evaluations: How often the reward (or calculator) was asked for an energy.
        reward: Mean return of the episodes.
        one_composition: Whether all structures have the same composition.
    """

    policy: str
    structures: int
    valid: float
    unique: float
    best: float = np.nan
    mean: float = np.nan
    best_per_atom: float = np.nan
    mean_per_atom: float = np.nan
    above: float = np.nan
    evaluations: int | None = None
    reward: float = np.nan
    one_composition: bool = True


def quality(
    policy: str,
    batch: StructureBatch,
    energy: ArrayLike | None = None,
    *,
    valid: BoolArray | None = None,
    best_known: float | Mapping[str, float] | None = None,
    evaluations: int | None = None,
    rewards: ArrayLike | None = None,
    rules: PlacementRules | None = None,
    method: Method = "distances",
    tol: float | None = None,
) -> Quality:
    """Judge the structures that one policy made.

    Args:
        policy: Name of the row.
        batch: B structures.
        energy: (B,) eV, NaN where unknown.
        valid: (B,) validity; by default :func:`~megen_gym.analysis.validity.valid_clusters` under `rules`.
        best_known: eV of the best structure known, one for all or by formula in Hill order, e.g. ``{"Ga18": -40.2}``.
        evaluations: Energies that it cost.
        rewards: (B,) returns of the episodes.
        rules: Windows for validity.
        method: How duplicates are found, as in :func:`~megen_gym.analysis.unique.unique`.
        tol: Tolerance of `method`.

    Raises:
        InputError: if `energy`, `valid` or `rewards` does not have one value per structure.
    """
    size = len(batch)
    energies = np.full(size, np.nan) if energy is None else np.asarray(energy, dtype=float)
    good = np.asarray(valid_clusters(batch, rules) if valid is None else valid, dtype=bool)
    returns = np.full(size, np.nan) if rewards is None else np.asarray(rewards, dtype=float)
    for name, values in (("energy", energies), ("valid", good), ("rewards", returns)):
        if values.shape != (size,):
            raise InputError(f"{name} of {policy!r} has shape {values.shape}; expected one value for each of {size}")
    counts = (batch.species[:, :, None] == np.arange(1, len(batch.symbols))).sum(axis=1)
    kinds, kind = np.unique(counts, axis=0, return_inverse=True)
    known = np.array([_known(row, batch.symbols, best_known) for row in kinds] or [np.nan])
    used = good & np.isfinite(energies)
    per_atom = energies[used] / np.maximum(batch.n_atoms[used], 1)
    distance = (energies - known[kind.reshape(-1)] if size else energies)[used]
    distance = distance[np.isfinite(distance)]
    return Quality(
        policy=policy,
        structures=size,
        valid=float(good.mean()) if size else np.nan,
        unique=len(unique(batch[good], method, tol)[0]) / int(good.sum()) if good.any() else np.nan,
        best=_reduce(np.min, energies[used]),
        mean=_reduce(np.mean, energies[used]),
        best_per_atom=_reduce(np.min, per_atom),
        mean_per_atom=_reduce(np.mean, per_atom),
        above=_reduce(np.min, distance),
        evaluations=evaluations,
        reward=_reduce(np.mean, returns[np.isfinite(returns)]),
        one_composition=len(kinds) <= 1,
    )


def _known(counts: np.ndarray, symbols: tuple[str, ...], best_known: float | Mapping[str, float] | None) -> float:
    from ase.formula import Formula

    if best_known is None or isinstance(best_known, int | float):
        return np.nan if best_known is None else float(best_known)
    formula = Formula.from_dict({s: int(c) for s, c in zip(symbols[1:], counts, strict=True) if c}).format("hill")
    return float(best_known.get(formula, np.nan))


def _reduce(function: object, values: np.ndarray) -> float:
    return float(function(values)) if len(values) else np.nan  # type: ignore[operator]


def quality_table(rows: Sequence[Quality], style: Style = "text") -> str:
    """The rows as aligned text, a Markdown table or CSV.

    A column that no row knows is left out. Energies are in eV, or in eV/atom if any row mixes compositions.

    >>> print(quality_table([Quality("random", 64, 0.75, 1.0, best=-31.2, mean=-28.44, evaluations=1152)]))
    policy  structures  valid  unique of valid  best E (eV)  mean E (eV)  evaluations
    random          64  75.0%           100.0%      -31.200      -28.440         1152
    """
    total = all(row.one_composition for row in rows)
    unit = "eV" if total else "eV/atom"
    exact = style == "csv"
    share = (lambda x: f"{x:.6g}") if exact else (lambda x: f"{100 * x:.1f}%")
    number = (lambda x: f"{x:.10g}") if exact else (lambda x: f"{x:.3f}")
    columns: dict[str, list[str]] = {
        "policy": [row.policy for row in rows],
        "structures": [str(row.structures) for row in rows],
        "valid": [_cell(row.valid, share) for row in rows],
        "unique of valid": [_cell(row.unique, share) for row in rows],
        f"best E ({unit})": [_cell(row.best if total else row.best_per_atom, number) for row in rows],
        f"mean E ({unit})": [_cell(row.mean if total else row.mean_per_atom, number) for row in rows],
        "above best known (eV)": [_cell(row.above, number) for row in rows],
        "mean reward": [_cell(row.reward, number) for row in rows],
        "evaluations": [NONE if row.evaluations is None else str(row.evaluations) for row in rows],
    }
    optional = (f"best E ({unit})", f"mean E ({unit})", "above best known (eV)", "mean reward", "evaluations")
    kept = [name for name in columns if name not in optional or set(columns[name]) - {NONE}]
    return render([kept, *(list(cells) for cells in zip(*(columns[name] for name in kept), strict=True))], style)


def _cell(value: float, show: object) -> str:
    return show(value) if np.isfinite(value) else NONE  # type: ignore[no-any-return, operator]


def render(cells: Sequence[Sequence[str]], style: Style = "text") -> str:
    """A table from its cells, header first: first column to the left, all others to the right.

    >>> print(render([["policy", "n"], ["random", "12"]], "markdown"))
    | policy |  n |
    |:-------|---:|
    | random | 12 |
    """
    if style not in get_args(Style):
        raise InputError(f"unknown table style {style!r}; {nearest(str(style), get_args(Style))}")
    if style == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([["" if c == NONE else c for c in row] for row in cells])
        return text.getvalue().rstrip("\n")
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    if style == "text":
        return "\n".join("  ".join(line).rstrip() for line in lines)
    rule = [":" + "-" * (widths[0] + 1), *("-" * (width + 1) + ":" for width in widths[1:])]
    return "\n".join(
        [
            "| " + " | ".join(lines[0]) + " |",
            "|" + "|".join(rule) + "|",
            *("| " + " | ".join(line) + " |" for line in lines[1:]),
        ]
    )
