"""Pictures of predictions and of their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megen_gym.figures import save, subplots
from megen_gym.structure import FloatArray

if TYPE_CHECKING:
    from megen_gym.agents.polysrl.evaluation import Judgement
    from megen_gym.agents.polysrl.uncertainty_measures import Calibration


def plot_predictions(path: Path, target: FloatArray, judged: Sequence[Judgement]) -> Path:
    """Predicted against true values of each way, on its test rows."""
    figure, (axes,) = subplots(1, len(judged), (3.6 * len(judged), 3.6), sharex=True, sharey=True)
    for axis, each in zip(axes, judged, strict=True):
        known = np.isfinite(each.scores.predicted)
        axis.scatter(target[known], each.scores.predicted[known], s=4, alpha=0.3, linewidths=0)
        low, high = float(target[known].min()), float(target[known].max())
        axis.plot([low, high], [low, high], color="black", linewidth=0.8)
        axis.set_title(f"{each.name}\nMAE {each.scores.mae.mean():.3g}", fontsize=9)
        axis.set_xlabel("true")
    axes[0].set_ylabel("predicted")
    return save(figure, path)


def plot_uncertainty(
    path: Path, spread: FloatArray, counts: FloatArray, kinds: Sequence[str], fit: Calibration
) -> Path:
    """Spread against the number of structures by formula type, and observed against expected coverage."""
    from megen_gym.agents.polysrl.uncertainty_measures import LEVELS

    figure, ((left, right),) = subplots(1, 2, (10, 4), width_ratios=(1.6, 1))
    names, types = np.asarray(kinds), sorted(set(kinds), key=lambda kind: -list(kinds).count(kind))[:8]
    rng = np.random.default_rng(0)
    for index, kind in enumerate(types):
        rows = names == kind
        near = counts[rows] + rng.uniform(-0.25, 0.25, int(rows.sum()))
        left.scatter(
            near, spread[rows], s=9, alpha=0.5, linewidths=0, color=f"C{index}", label=f"{kind} ({rows.sum()})"
        )
    left.set_xlabel("structures of the composition")
    left.set_ylabel("predicted spread (of all structures: 1)")
    left.legend(fontsize=8, frameon=False, ncols=2)
    right.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    right.plot(LEVELS, fit.covered, marker="o", markersize=4)
    right.set_xlabel("expected share within the interval")
    right.set_ylabel("observed share")
    right.set_title(f"calibration error {fit.error:.3f}", fontsize=10)
    return save(figure, path)
