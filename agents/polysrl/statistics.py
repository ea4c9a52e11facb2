"""Statistics of the elements of a composition, and the trees that learn from them: what a network has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from megen_gym.agents.polysrl.elements import element_table
from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray, IntArray

Model = Literal["extra_trees", "random_forest", "boosting", "ridge"]

STATISTICS = ("mean", "std", "min", "max", "range")

ELEMENTS = 118

_ROWS = 8192
"""Compositions that are worked on at once."""


def element_statistics(numbers: IntArray, fractions: FloatArray, table: FloatArray | None = None) -> FloatArray:
    """(B, 5 P + 119) columns: mean, std (both weighted by the fractions), min, max and range of P properties, the
    number of elements, and the fraction of each of the 118 elements. With the 22 properties of Magpie these are 229.

    A property that is not known of an element is taken to be the mean over the elements.

    Args:
        numbers: (B, E) atomic numbers; 0 is padding.
        fractions: (B, E) shares of the atoms; 0 for padding.
        table: (Z, P) properties by atomic number, NaN where unknown; None for Magpie's 22.

    Raises:
        InputError: for arrays that do not fit, atomic numbers outside 0..118, or a composition without elements.

    >>> element_statistics(np.array([[8, 26]]), np.array([[0.6, 0.4]])).shape
    (1, 229)
    """
    table = element_table("magpie") if table is None else np.asarray(table, dtype=np.float64)
    numbers, fractions = np.asarray(numbers, dtype=np.int64), np.asarray(fractions, dtype=np.float64)
    if numbers.ndim != 2 or numbers.shape != fractions.shape:
        raise InputError(f"numbers have the shape {numbers.shape}, fractions {fractions.shape}; give (B, E) for both")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() <= ELEMENTS:
        raise InputError(f"atomic numbers go from {numbers.min()} to {numbers.max()}; give 1 to {ELEMENTS}, 0 to pad")
    if len(numbers) and (empty := ~(numbers > 0).any(1)).any():
        raise InputError(f"composition {int(np.argmax(empty))} has no elements; give at least one")
    known = np.full((ELEMENTS + 1, table.shape[1]), np.nan)
    known[: len(table)] = table[: ELEMENTS + 1]
    known = np.where(np.isnan(known), np.nanmean(known[1:], axis=0), known)
    parts = [
        _statistics(numbers[start : start + _ROWS], fractions[start : start + _ROWS], known)
        for start in range(0, len(numbers), _ROWS)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, len(STATISTICS) * table.shape[1] + 1 + ELEMENTS))


def _statistics(numbers: IntArray, fractions: FloatArray, table: FloatArray) -> FloatArray:
    there = numbers > 0
    weight = np.where(there, fractions, 0.0)
    weight = weight / weight.sum(1, keepdims=True)
    values = table[numbers]
    mean = np.einsum("be,bep->bp", weight, values)
    std = np.sqrt(np.einsum("be,bep->bp", weight, (values - mean[:, None]) ** 2))
    low = np.where(there[..., None], values, np.inf).min(1)
    high = np.where(there[..., None], values, -np.inf).max(1)
    share = np.zeros((len(numbers), ELEMENTS + 1))
    np.add.at(share, (np.arange(len(numbers))[:, None], numbers), weight)
    return np.concatenate([mean, std, low, high, high - low, there.sum(1, keepdims=True), share[:, 1:]], axis=1)


@dataclass(frozen=True, eq=False)
class Scores:
    """How well the test rows of K folds are predicted.

    Attributes:
        mae: (K,) mean absolute error in the units of the target.
        r2: (K,) coefficient of determination.
        predicted: (N,) prediction for each row, from the last fold that tested it; NaN for rows never tested.
    """

    mae: FloatArray
    r2: FloatArray
    predicted: FloatArray

    def __str__(self) -> str:
        return (
            f"MAE {self.mae.mean():.4f} ± {self.mae.std():.4f}, R² {self.r2.mean():.3f} ± {self.r2.std():.3f} "
            f"({len(self.mae)} folds)"
        )


def errors(target: FloatArray, predicted: FloatArray) -> tuple[float, float]:
    """Mean absolute error and R² (NaN where all targets are equal)."""
    spread = float(((target - target.mean()) ** 2).sum())
    r2 = 1 - float(((target - predicted) ** 2).sum()) / spread if spread > 0 else np.nan
    return float(np.abs(target - predicted).mean()), r2


def baselines(
    features: FloatArray,
    target: FloatArray,
    folds: Sequence[tuple[IntArray, IntArray]],
    models: Sequence[Model] = ("extra_trees", "random_forest", "boosting", "ridge"),
    seed: int = 0,
    jobs: int = 1,
) -> dict[str, Scores]:
    """Train and test models that need no tuning: extra trees, a random forest, boosted trees and ridge regression.

    Both forests have 100 trees with a third of the features at each split; boosting takes the absolute error, 300
    rounds and a rate of 0.1; ridge chooses its penalty by itself on standardised features.

    Args:
        features: (N, D), e.g. :func:`element_statistics`.
        target: (N,).
        folds: (train rows, test rows) of each fold.
        models: Which of them.
        seed: Of the trees.
        jobs: Processes that grow forests.

    Raises:
        InputError: for an unknown model, no folds, or a fold without rows.
    """
    for name in models:
        if name not in get_args(Model):
            raise InputError(f"there is no baseline {name!r}; {nearest(str(name), get_args(Model))}")
    if not folds or any(not len(rows) for fold in folds for rows in fold):
        raise InputError("there are no folds, or one without rows to train or test; give rows for each")
    found: dict[str, Scores] = {}
    for name in models:
        mae, r2, predicted = np.zeros(len(folds)), np.zeros(len(folds)), np.full(len(target), np.nan)
        for number, (train, test) in enumerate(folds):
            predicted[test] = _model(name, seed, jobs).fit(features[train], target[train]).predict(features[test])
            mae[number], r2[number] = errors(target[test], predicted[test])
        found[name] = Scores(mae, r2, predicted)
    return found


def _model(name: Model, seed: int, jobs: int) -> Any:
    from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor, RandomForestRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    trees = {"n_estimators": 100, "max_features": 1 / 3, "random_state": seed, "n_jobs": jobs}
    if name == "extra_trees":
        return ExtraTreesRegressor(**trees)
    if name == "random_forest":
        return RandomForestRegressor(**trees)
    if name == "boosting":
        return HistGradientBoostingRegressor(
            loss="absolute_error", max_iter=300, learning_rate=0.1, early_stopping=False, random_state=seed
        )
    return make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-3, 4, 15)))
