"""What a training leaves to look at: a plot."""

from __future__ import annotations

from pathlib import Path

from megen_gym.figures import save, subplots
from megen_gym.runs import Run

PLOT = "training.png"

PARTS = {"w": "letters", "a": "elements", "xyz": "coordinates", "l": "lattice"}


def plot_training(run: Run) -> Path | None:
    """Draw the likelihood in training and of the held-out crystals, in all and by part, into ``training.png``."""
    metrics = run.metrics()
    if not metrics:
        return None
    epoch = metrics["iteration"] + 1
    figure, (axes,) = subplots(1, 5, (16, 3.4))
    for axis, (name, title) in zip(axes, ({"": "whole crystal"} | PARTS).items(), strict=True):
        end = f"_{name}" if name else ""
        axis.plot(epoch, metrics[f"loss{end}"], label="training, with dropout", linewidth=1)
        if "nll" in metrics:
            axis.plot(epoch, metrics[f"nll{end}"], label="held out", linewidth=1.6)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
    axes[0].set_ylabel("nats per crystal")
    axes[0].legend(fontsize=8, frameon=False)
    return save(figure, run.path / PLOT)
