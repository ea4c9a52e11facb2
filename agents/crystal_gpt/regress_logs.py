"""What a regression leaves to look at: a plot, and a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megen_gym.agents.crystal_gpt.data import Dataset
from megen_gym.agents.crystal_gpt.regress_training import baselines, scores
from megen_gym.agents.crystal_gpt.regression import load_regressor
from megen_gym.figures import save, subplots
from megen_gym.runs import Run

PLOT = "regression.png"


def summary(run: Run, train: Dataset, valid: Dataset) -> str:
    """One sentence: errors of the kept weights, of the last ones, and of the baselines on the held-out crystals."""
    model, metrics = load_regressor(run.path)[0], run.metrics()
    judged, where = (valid, "held-out") if len(valid) else (train, "training")
    truth = judged.properties[:, 0]
    mine = scores(truth, model.predict(judged.crystals))
    mean, linear = (
        scores(truth, guess) for guess in baselines(train.crystals, train.properties[:, 0], judged.crystals)
    )
    text = f"{model.name} of {len(judged)} {where} crystals: MAE {mine[0]:.4g}, R2 {mine[1]:.3f}"
    if len(valid) and "mae" in metrics:
        row = int(np.nanargmin(metrics["mae"])) if np.isfinite(metrics["mae"]).any() else 0
        text += f" (kept: epoch {int(metrics['iteration'][row]) + 1} of {int(metrics['iteration'][-1]) + 1}; "
        text += f"last: {metrics['mae'][-1]:.4g}, {metrics['r2'][-1]:.3f})"
    return text + (
        f"; the mean {mean[0]:.4g}, {mean[1]:.3f}; least squares on the composition {linear[0]:.4g}, {linear[1]:.3f}"
    )


def plot_regression(run: Run, train: Dataset, valid: Dataset) -> Path:
    """Draw errors by epoch, and predicted against true values with the composition baseline, into one file."""
    model, metrics = load_regressor(run.path)[0], run.metrics()
    judged, where = (valid, "held out") if len(valid) else (train, "training")
    truth, guess = judged.properties[:, 0], model.predict(judged.crystals)
    linear = baselines(train.crystals, train.properties[:, 0], judged.crystals)[1]
    figure, (axes,) = subplots(1, 3, (12.5, 3.8))
    if metrics:
        epoch = metrics["iteration"] + 1
        axes[0].plot(epoch, metrics["train_mae"], label="training (with dropout)", linewidth=1)
        if "mae" in metrics:
            axes[0].plot(epoch, metrics["mae"], label="held out", linewidth=1.6)
        axes[0].axhline(scores(truth, linear)[0], color="grey", linestyle="--", linewidth=1, label="composition")
        axes[0].set_ylim(bottom=0)
        axes[0].legend(fontsize=8, frameon=False)
    axes[0].set_xlabel("epoch")
    axes[0].set_ylabel(f"mean absolute error of {model.name}")
    shown = np.concatenate([truth, guess, linear])
    ends = [shown.min(), shown.max()]
    for axis, values, title in ((axes[1], guess, "transformer"), (axes[2], linear, "composition")):
        mae, r2 = scores(truth, values)
        axis.plot(ends, ends, color="grey", linewidth=0.8)
        axis.plot(truth, values, ".", markersize=4, alpha=0.6)
        axis.set_title(f"{title}, {where}: MAE {mae:.3g}, R2 {r2:.3f}", fontsize=9)
        axis.set_xlabel(f"true {model.name}")
        axis.set_ylabel(f"predicted {model.name}")
    return save(figure, run.path / PLOT)
