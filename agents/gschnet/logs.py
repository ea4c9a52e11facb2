"""What a training leaves to look at: plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from megen_gym.runs import Run, atomic

PLOT = "training.png"


def plot_training(run: Run) -> Path | None:
    """Draw both losses, in training and of the molecules that judge, into ``training.png``."""
    names = {"": "both losses", "_type": "next type (nats per step)", "_dist": "position (nats per row)"}
    lines = {f"loss{end}": title for end, title in names.items()}
    return plot_columns(run, lines, PLOT, {f"loss{end}": f"val{end}" for end in names})


def plot_columns(run: Run, names: Mapping[str, str], file: str, beside: Mapping[str, str] | None = None) -> Path | None:
    """Draw columns of the metrics by epoch, each with its title and, if there is one, another column beside it."""
    metrics = run.metrics()
    if not metrics:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    epoch = metrics["iteration"] + 1
    figure, axes = plt.subplots(1, len(names), figsize=(3.7 * len(names), 3.4), layout="constrained", squeeze=False)
    for axis, (name, title) in zip(axes[0], names.items(), strict=True):
        axis.plot(epoch, metrics[name], label="training", linewidth=1.2)
        other = (beside or {}).get(name)
        if other in metrics:
            axis.plot(epoch, metrics[other], label="held out", linewidth=1.6)
            axis.legend(fontsize=8, frameon=False)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
    path = run.path / file
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)
    return path
