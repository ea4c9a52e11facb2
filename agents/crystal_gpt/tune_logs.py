"""What tuning leaves to look at: a plot, the crystals of the last epoch, and a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from megen_gym.agents.crystal_gpt.outputs import PARTS
from megen_gym.agents.crystal_gpt.tuning import Draw
from megen_gym.figures import save, subplots
from megen_gym.io import write_structures
from megen_gym.runs import Run

PLOT = "tuning.png"

STRUCTURES = "structures_tuned.extxyz"


def row_of(draw: Draw) -> dict[str, float]:
    """What metrics.csv says of a batch: the reward over the crystals that have one, and what was made large."""
    scores = draw.scores
    known = scores.reward[np.isfinite(scores.reward)]
    mean, std, low, high = (
        (known.mean(), known.std(), known.min(), known.max()) if len(known) else (np.nan,) * 4
    )  # fmt: skip
    return {
        "reward": mean, "reward_std": std, "reward_min": low, "reward_max": high, "score": scores.value.mean(),
        "apart": scores.apart.mean(), "failed": float(scores.apart.sum() - len(known)), "unique": scores.unique,
        "kl": draw.leash.mean(), "kl_error": draw.leash.std() / np.sqrt(len(draw.crystals)),
    }  # fmt: skip


def write_tuned(run: Run, draw: Draw) -> Path:
    """Write a batch as extxyz, best first, with reward and log-likelihood of each crystal."""
    crystals, scores = draw.crystals, draw.scores
    order = np.lexsort((np.arange(len(crystals)), -scores.value, ~np.isfinite(scores.reward)))
    logp = draw.logp.double().numpy(force=True)[order]
    chosen = crystals[order]
    info: dict[str, Any] = {name: logp[:, index] for index, name in enumerate(PARTS)}
    info |= {"logp": logp.sum(1), "reward": scores.reward[order], "apart": scores.apart[order].astype(int)}
    sites = [chosen.names(row) for row in range(len(chosen))]
    return write_structures(
        run.path / STRUCTURES, chosen.to_atoms(), info | {"spacegroup": chosen.group, "sites": sites}
    )


def plot_tuning(run: Run, minimise: bool) -> Path:
    """Draw reward, held-out likelihood, divergence and variety by epoch into ``tuning.png``."""
    metrics = run.metrics()
    epoch = metrics["iteration"]
    figure, (axes,) = subplots(1, 4, (14, 3.4))
    reward, spread = metrics["reward"], metrics["reward_std"]
    axes[0].fill_between(epoch, reward - spread, reward + spread, alpha=0.2, linewidth=0, label="standard deviation")
    axes[0].plot(epoch, reward, label="mean")
    best = metrics["reward_min" if minimise else "reward_max"]
    axes[0].plot(epoch, best, linewidth=1, linestyle="--", label="best")
    axes[0].set_ylabel("reward")
    if np.isfinite(reward).any():
        axes[0].legend(fontsize=8, frameon=False)
    if "nll" in metrics:
        known = np.isfinite(metrics["nll"])
        axes[1].plot(epoch[known], metrics["nll"][known])
    else:
        axes[1].text(0.5, 0.5, "no held-out crystals", ha="center", va="center", transform=axes[1].transAxes)
    axes[1].set_ylabel("nats per held-out crystal")
    axes[2].plot(epoch, metrics["kl"])
    error = metrics["kl_error"]
    axes[2].fill_between(epoch, metrics["kl"] - error, metrics["kl"] + error, alpha=0.2, linewidth=0)
    axes[2].set_ylabel("nats from the pretrained model")
    axes[3].plot(epoch, metrics["unique"], label="different crystals")
    axes[3].plot(epoch, metrics["apart"], linewidth=1, linestyle="--", label="without overlap")
    axes[3].set_ylim(-0.02, 1.04)
    axes[3].set_ylabel("share of a batch")
    axes[3].legend(fontsize=8, frameon=False)
    for axis in axes:
        axis.set_xlabel("epoch")
    return save(figure, run.path / PLOT)


def summary(run: Run, best: int, batchsize: int) -> str:
    """One sentence: before and after, and what could not be rewarded."""
    metrics = run.metrics()
    kept = int(np.flatnonzero(metrics["iteration"] == best)[0])
    parts = []
    if np.isfinite(metrics["reward"][[0, -1]]).all():
        values = metrics["reward"]
        parts.append(f"reward {values[0]:.4g} -> {values[-1]:.4g} (kept: epoch {best}, {values[kept]:.4g})")
    elif "preferred" in metrics:
        right = metrics["preferred"][np.isfinite(metrics["preferred"])]
        parts.append(f"{100 * right[0]:.0f} -> {100 * right[-1]:.0f} % of the pairs preferred")
    if "nll" in metrics:
        nll = metrics["nll"][np.isfinite(metrics["nll"])]
        parts.append(f"{nll[0]:.3f} -> {nll[-1]:.3f} nats per held-out crystal")
    parts.append(f"{100 * metrics['unique'][0]:.0f} -> {100 * metrics['unique'][-1]:.0f} % different crystals")
    parts.append(f"{metrics['kl'][-1]:.2f} nats from the pretrained model")
    parts.append(f"{metrics['evaluations'][-1]:.0f} rewards computed")
    overlapping, failed = ((1 - metrics["apart"]) * batchsize).sum(), metrics["failed"].sum()
    if overlapping >= 1:
        parts.append(f"{overlapping:.0f} crystals with atoms too near")
    if failed and metrics["evaluations"][-1]:
        parts.append(f"{failed:.0f} crystals without a reward")
    return ", ".join(parts)
