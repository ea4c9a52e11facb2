"""What a training leaves to look at: a plot, and a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megen_gym.agents.nn.plots import plot_columns
from megen_gym.runs import Run

COLUMNS = {
    "loss": "loss per structure", "right_pos": "pairs that belong together: recognised", "mean_log_std": "mean log std",
    "hit_5": "held out: own structure in first 5", "mae": "absolute error (std)",
}  # fmt: skip
"""Columns of the metrics that are drawn where they are there, with their titles."""


def plot_training(run: Run) -> Path | None:
    """Draw the loss, how many pairs are right, and how held-out compositions find their structures."""
    metrics = run.metrics()
    shown = {name: title for name, title in COLUMNS.items() if name in metrics}
    return plot_columns(run, shown, "training.png")


def summary(run: Run) -> str:
    """How good the kept network is."""
    metrics = run.metrics()
    if "miss" not in metrics or not np.isfinite(metrics["miss"]).any():
        loss = metrics.get("loss")
        return "nothing was trained" if loss is None or not len(loss) else f"training loss {loss[-1]:.4g}"
    row = int(np.nanargmin(metrics["miss"]))
    return (
        f"best epoch {int(metrics['iteration'][row]) + 1}: {100 * metrics['hit_1'][row]:.1f} % of the held-out "
        f"compositions find a structure of theirs first, {100 * metrics['hit_5'][row]:.1f} % among the first five"
    )
