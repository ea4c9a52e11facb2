"""How good a DART model is: errors, ranks within a size, exploits; and the model card that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from megen_gym.rewards.dart.dataset import Index, Labelled
from megen_gym.rewards.dart.evaluate import Evaluator
from megen_gym.rewards.dart.features import OVERLAPS, SCALES, Positions, exploits, references

Floats = NDArray[np.float64]
Energies = Callable[[Sequence[Positions]], Floats]
FEWEST = 3
"""Structures of a size below which no rank correlation is given."""


def predict(evaluate: Evaluator, structures: Sequence[Positions]) -> Floats:
    """(M,) eV of clusters of any sizes."""
    width = max(len(positions) for positions in structures)
    padded, mask = np.zeros((len(structures), width, 3)), np.zeros((len(structures), width), dtype=bool)
    for row, positions in enumerate(structures):
        padded[row, : len(positions)], mask[row, : len(positions)] = positions, True
    return np.asarray(evaluate(torch.from_numpy(padded), torch.from_numpy(mask)).total.cpu().numpy())


@dataclass(frozen=True)
class SizeScore:
    """Quality for one cluster size.

    Attributes:
        size: Number of atoms; 0 for all sizes together.
        count: Structures.
        mae: eV, mean absolute error.
        within: eV, the same after the mean of the size was taken off predictions and labels.
        floor: eV, `within` of the prediction "mean of the size".
        rank: Spearman's rank correlation within the size; NaN below `FEWEST` structures. The floor has none, that is 0.
    """

    size: int
    count: int
    mae: float
    within: float
    floor: float
    rank: float


def scores(sizes: Index, predicted: Floats, labels: Floats) -> list[SizeScore]:
    """One score per size, and last the one of all sizes (its rank correlation is the mean over sizes, by count)."""
    found = []
    for size in np.unique(sizes):
        guess, truth = predicted[sizes == size], labels[sizes == size]
        rank = np.nan
        if len(truth) >= FEWEST and np.ptp(truth) > 0:
            rank = float(spearmanr(guess, truth).statistic) if np.ptp(guess) > 0 else 0.0
        centred = truth - truth.mean()
        within = float(np.abs(guess - guess.mean() - centred).mean())
        found.append(
            SizeScore(
                int(size), len(truth), float(np.abs(guess - truth).mean()), within, float(np.abs(centred).mean()), rank
            )
        )
    weight = np.array([score.count for score in found], dtype=float)

    def mean(name: str) -> float:
        values = np.array([getattr(score, name) for score in found])
        known = np.isfinite(values)
        return float(np.average(values[known], weights=weight[known])) if known.any() else float("nan")

    return [*found, SizeScore(0, len(labels), mean("mae"), mean("within"), mean("floor"), mean("rank"))]


def exploit_rates(energies: Energies, real: Sequence[Positions], seed: int = 0) -> dict[str, float]:
    """Share of real clusters that an exploit beats (has a lower energy than), by exploit; `energies` gives eV."""
    if not real:
        return {}
    names = [f"scaled by {scale}" for scale in SCALES] + [f"an atom at {distance} Å" for distance in OVERLAPS]
    rng = np.random.default_rng(seed)
    copies = [copy for positions in real for copy in exploits(rng, positions)]
    energy = energies(real)
    beaten = energies(copies).reshape(len(real), len(names)) < energy[:, None]
    return dict(zip(names, beaten.mean(0).tolist(), strict=True))


def table(rows: Sequence[SizeScore]) -> str:
    """A markdown table of scores in eV."""
    lines = [
        "| size | structures | MAE / eV | MAE within size / eV | floor: mean of the size / eV | rank correlation |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        rank = "" if np.isnan(row.rank) else f"{row.rank:.2f}"
        name = row.size or "all"
        lines.append(f"| {name} | {row.count} | {row.mae:.3f} | {row.within:.3f} | {row.floor:.3f} | {rank} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Judgement:
    """How a model did.

    Attributes:
        parts: Data by side of the split.
        tables: Scores by name of the data they were measured on: validation, test, and data from elsewhere.
        rates: What :func:`exploit_rates` gives for the real clusters of the test side.
    """

    parts: dict[str, Labelled]
    tables: dict[str, list[SizeScore]]
    rates: dict[str, float]


def judge(
    energies: Energies,
    data: Labelled,
    group: Index,
    sides: tuple[Index, Index, Index],
    elsewhere: Mapping[str, Labelled],
    seed: int,
) -> Judgement:
    """Measure a model on the sides that it was not trained on.

    Args:
        energies: eV of clusters.
        data: All of it.
        group: Of each structure.
        sides: Rows for training, validation and test.
        elsewhere: Further data by name.
        seed: Of the exploits.
    """
    parts = {name: data[side] for name, side in zip(("training", "validation", "test"), sides, strict=True)}
    measured = {f"{name.capitalize()} set": part for name, part in parts.items() if name != "training"}
    tables = {
        name: scores(part.sizes, energies(part.positions), part.energies)
        for name, part in (measured | dict(elsewhere)).items()
    }
    real = [data.positions[row] for row in sides[2][references(parts["test"], group[sides[2]])]]
    return Judgement(parts, tables, exploit_rates(energies, real, seed))


def model_card(title: str, judgement: Judgement, facts: Mapping[str, Any]) -> str:
    """The model card in markdown.

    Args:
        title: Name of the model.
        judgement: What was measured.
        facts: Settings and figures to state.
    """
    lines = [
        f"# {title}: model card",
        "",
        "Binding energies in eV, relative to free gallium atoms. Whole groups of structures that share a trajectory or",
        "a fingerprint (sorted distances, 0.05 Å) stay on one side of the split.",
        "",
        "| side | structures | sizes | eV per atom |",
        "| --- | --- | --- | --- |",
    ]
    for name, data in judgement.parts.items():
        each = data.energies / data.sizes
        sizes = f"{data.sizes.min()} to {data.sizes.max()}"
        lines.append(f"| {name} | {len(data)} | {sizes} | {each.min():.2f} to {each.max():.2f} |")
    for name, rows in judgement.tables.items():
        lines += ["", f"## {name}", "", table(rows)]
    if judgement.rates:
        lines += ["", "## Exploits: share of real test clusters with a higher energy than their spoilt copy", ""]
        lines += ["| copy | share |", "| --- | --- |"]
        lines += [f"| {name} | {rate:.3f} |" for name, rate in judgement.rates.items()]
    lines += ["", "## Settings and figures", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    return "\n".join(lines)
