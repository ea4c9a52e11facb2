"""Pictures of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from megen_gym.figures import save, subplots
from megen_gym.runs import Run


def plot_columns(run: Run, names: Mapping[str, str], file: str, beside: Mapping[str, str] | None = None) -> Path | None:
    """Draw columns of the metrics by epoch, each with its title and, if there is one, another column beside it."""
    metrics = run.metrics()
    if not metrics:
        return None
    epoch = metrics["iteration"] + 1
    figure, (axes,) = subplots(1, len(names), (3.7 * len(names), 3.4))
    for axis, (name, title) in zip(axes, names.items(), strict=True):
        known = np.isfinite(metrics[name])
        axis.plot(epoch[known], metrics[name][known], label="training", linewidth=1.2)
        other = (beside or {}).get(name)
        if other in metrics:
            axis.plot(epoch, metrics[other], label="held out", linewidth=1.6)
            axis.legend(fontsize=8, frameon=False)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
    return save(figure, run.path / file)
