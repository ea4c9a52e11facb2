"""The published logs, ``losses.csv`` and ``learning_rate.csv``, and the plot of a training."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from megen_gym.errors import InputError
from megen_gym.figures import save, subplots
from megen_gym.runs import Run, append_bytes, write_text
from megen_gym.structure import FloatArray

LOSSES, RATES, PLOT = "losses.csv", "learning_rate.csv", "training.png"

RATE_COLUMNS = {"generator": "generator_lr", "coordinate": "coord_disc_lr", "distance": "dist_disc_lr"}


class EpochTable:
    """A CSV file with one row per epoch, whose last rows can be taken back when training goes on from a checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add a row; the first one writes the header."""
        line = ",".join([str(epoch), *(f"{value:.9g}" for value in values.values())]) + "\n"
        if not self.path.exists():
            write_text(self.path, ",".join(["epoch", *values]) + "\n")
        append_bytes(self.path, line.encode())

    def truncate(self, epochs: int) -> None:
        """Keep the rows of the first `epochs` epochs, and whole lines only."""
        if self.path.exists():
            text = self.path.read_text()
            header, *rows = text[: text.rfind("\n") + 1].splitlines(keepends=True)
            write_text(self.path, header + "".join(row for row in rows if int(row.partition(",")[0]) < epochs))

    def read(self) -> dict[str, FloatArray]:
        """The columns.

        Raises:
            InputError: for a file that holds something else than numbers.
        """
        with self.path.open() as file:
            header, *rows = list(csv.reader(file))
        try:
            table = np.array(rows, dtype=float).reshape(len(rows), len(header))
        except ValueError as error:
            raise InputError(f"{self.path} is damaged ({error}); restore it or train anew") from None
        return {name: table[:, index] for index, name in enumerate(header)}


def plot_training(run: Run) -> Path:
    """Draw losses, learning rates and the judgements of the held-out structures into ``training.png``."""
    losses, metrics = EpochTable(run.path / LOSSES).read(), run.metrics()
    rates = EpochTable(run.path / RATES).read()
    figure, axes = subplots(2, 2, (10, 7))
    (top, scores), (quality, valid) = axes
    epoch = losses["epoch"]
    top.plot(epoch, losses["distance_dis"], label="Wasserstein distance (critics)")
    top.plot(epoch, losses["cost_gen"], label="generator cost", linewidth=0.8)
    top.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    for name, label in (("D_real", "real"), ("D_fake", "generated")):
        scores.plot(epoch, losses[name], label=f"coordinate critic, {label}")
        if f"D_dist_{name[2:]}" in losses:
            scores.plot(epoch, losses[f"D_dist_{name[2:]}"], label=f"distance critic, {label}", linestyle="--")
    if metrics:
        quality.semilogy(metrics["iteration"], metrics["w1_neighbour"], label="nearest-neighbour distances")
        quality.semilogy(metrics["iteration"], metrics["w1_height"], label="height profile")
        valid.plot(metrics["iteration"], 100 * metrics["valid"], label="valid structures")
    quality.set_ylabel("W1 to held-out structures / Å")
    valid.set_ylabel("valid / %")
    valid.set_ylim(-2, 102)
    second = valid.twinx()
    for name in rates:
        if name != "epoch":
            second.semilogy(rates["epoch"], rates[name], linewidth=0.8, linestyle=":", label=name)
    second.set_ylabel("learning rate (dotted)")
    for axis, title in zip(
        axes.flat, ("losses", "scores", "distance to the data", "validity and learning rates"), strict=True
    ):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("epoch")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, frameon=False)
    return save(figure, run.path / PLOT)
