"""What a training leaves to look at: plots."""

from __future__ import annotations

from pathlib import Path

from megen_gym.agents.nn.plots import plot_columns
from megen_gym.runs import Run

PLOT = "training.png"


def plot_training(run: Run) -> Path | None:
    """Draw both losses, in training and of the molecules that judge, into ``training.png``."""
    names = {"": "both losses", "_type": "next type (nats per step)", "_dist": "position (nats per row)"}
    lines = {f"loss{end}": title for end, title in names.items()}
    return plot_columns(run, lines, PLOT, {f"loss{end}": f"val{end}" for end in names})
