"""Whether an uncertainty is worth its name: calibration, and rank by what it should follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, spearmanr

from megen_gym.errors import InputError
from megen_gym.structure import FloatArray

LEVELS = np.linspace(0.05, 0.95, 19)
"""Shares of the probability at which coverage is looked at."""

FEWEST = 8
"""Compositions of a formula type below which a rank correlation says nothing."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often errors lie within the interval that should hold a given share of them.

    Attributes:
        covered: (19,) observed shares at :data:`LEVELS`.
        error: Mean distance between observed and expected share (Kuleshov et al., ICML 2018).
        nll: Nats of a Gaussian with the predicted standard deviation, per row.
    """

    covered: FloatArray
    error: float
    nll: float


def calibration(residual: FloatArray, std: FloatArray) -> Calibration:
    """Of residuals and their predicted standard deviations, (N,) each; rows without a number are left out.

    Raises:
        InputError: where no row is left, or a standard deviation is not positive.
    """
    known = np.isfinite(residual) & np.isfinite(std)
    residual, std = residual[known], std[known]
    if not len(residual) or (std <= 0).any():
        raise InputError(f"{len(residual)} rows have an uncertainty above 0; give at least one, and no other")
    z = np.abs(residual) / std
    covered = (z[:, None] <= norm.ppf(0.5 + LEVELS / 2)).mean(0)
    nll = 0.5 * z**2 + np.log(std) + 0.5 * np.log(2 * np.pi)
    return Calibration(covered, float(np.abs(covered - LEVELS).mean()), float(nll.mean()))


@dataclass(frozen=True, eq=False)
class Ranks:
    """Rank correlation of a score with a count, of all rows and within formula types.

    Attributes:
        overall: Spearman's, of all rows: large formulas may do it alone.
        within: Mean over formula types, weighted by their size.
        types: By formula type: correlation and number of rows.
    """

    overall: float
    within: float
    types: dict[str, tuple[float, int]]


def ranks(score: FloatArray, count: FloatArray, types: Sequence[str]) -> Ranks:
    """Spearman's rank correlation of (N,) scores and counts; types with few rows, or one count only, do not count."""
    kinds, found = np.asarray(types), {}
    for kind in sorted(set(types)):
        rows = kinds == kind
        if rows.sum() >= FEWEST and np.ptp(count[rows]) > 0 and np.ptp(score[rows]) > 0:
            found[kind] = (float(spearmanr(score[rows], count[rows])[0]), int(rows.sum()))
    sizes = [size for _, size in found.values()]
    within = float(np.average([value for value, _ in found.values()], weights=sizes)) if found else float("nan")
    overall = float(spearmanr(score, count)[0]) if len(score) > 1 and np.ptp(count) > 0 else float("nan")
    return Ranks(overall, within, found)


def auroc(score: FloatArray, positive: FloatArray, types: Sequence[str]) -> float:
    """Chance that a row with `positive` has the larger score than one without, of pairs within a formula type."""
    kinds, right, pairs = np.asarray(types), 0.0, 0
    for kind in set(types):
        yes, no = (score[(kinds == kind) & (positive.astype(bool) == side)] for side in (True, False))
        gap = yes[:, None] - no
        right += float((gap > 0).sum() + 0.5 * (gap == 0).sum())
        pairs += gap.size
    return right / pairs if pairs else float("nan")
