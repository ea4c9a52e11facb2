"""How soon are the lowest Lennard-Jones clusters found? ``OMP_NUM_THREADS=1 python benchmarks/known_answers.py``.

Each entrant begins with the empty canvas, and every evaluation of energy and forces counts, relaxations included. What
is printed is the median over seeds of the evaluations until the lowest known energy was first seen within 1e-3
epsilon, ratios being to SciPy's basin hopping, run here under the same count; for sizes where that would take hours, to
what it took elsewhere (:data:`ELSEWHERE`). ``--train_time 400`` first trains an agent on each size, which costs
evaluations too: they are printed, and not part of the medians.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch

from megen_gym.agents.ppo.settings import Settings
from megen_gym.agents.ppo_train import train
from megen_gym.agents.registry import make_policy
from megen_gym.analysis.table import render
from megen_gym.arena.playing import enter
from megen_gym.arena.problem import Problem
from megen_gym.cli import run

BASELINE = "scipy_basin_hopping"

ELSEWHERE = {13: 592, 19: 3320, 26: 12_480, 38: 580_000}
"""Median evaluations of SciPy's basin hopping by number of atoms, measured on another machine."""


def main(
    sizes: Sequence[int] = (13, 19, 26),
    entrants: Sequence[str] = ("regrow",),
    budget: int = 30_000,
    seeds: int = 10,
    train_time: float = 0.0,
    baseline_up_to: int = 26,
    dir: Path = Path("runs"),
) -> None:
    """Print a table.

    Args:
        sizes: Atoms.
        entrants: Names of policies, such as regrow, compact, regrow@RUN or covariant@RUN.
        budget: Evaluations of each entrant and seed.
        seeds: How many.
        train_time: Seconds for which an agent is trained on each size; it enters alone and in regrow. 0: none is.
        baseline_up_to: Atoms beyond which SciPy's basin hopping is not run.
        dir: Folder of the runs.
    """
    cells = [["task", "policy", "hits", "median first hit", "basin hopping / this", "CPU s per seed"]]
    for size in sizes:
        names = [BASELINE] * (size <= baseline_up_to) + list(entrants)
        if train_time > 0:
            agent = trained(size, train_time, dir)
            names += [f"covariant@{agent}", f"regrow@{agent}"]
        baseline, where = float(ELSEWHERE.get(size, np.nan)), " (elsewhere)"
        for name in names:
            begun = time.process_time()
            hits = np.array([first_hit(name, size, budget, seed, dir) for seed in range(seeds)])
            seconds = (time.process_time() - begun) / seeds
            median = float(np.median(hits))
            if name == BASELINE:
                baseline, where = median, ""
            known = np.isfinite(median) and np.isfinite(baseline)
            cells.append([
                f"LJ{size}", name, f"{np.isfinite(hits).sum()}/{seeds}",
                f"{median:.0f}" if np.isfinite(median) else f"> {budget}",
                f"{baseline / median:.2f}{where}" if known else "-", f"{seconds:.1f}",
            ])  # fmt: skip
            print(" ".join(cells[-1]), sorted(hits.tolist()), file=sys.stderr, flush=True)
    print(render(cells))


def first_hit(name: str, size: int, budget: int, seed: int, dir: Path) -> float:
    """Evaluations until the lowest known energy was evaluated; inf where the budget did not suffice."""
    problem = Problem.make("LJCluster-v0", {"n": size}, budget=budget, seed=seed)
    meter = problem.meter

    def end_after_hit(used: int) -> None:
        if meter.hit is not None:
            meter.budget = used

    meter.told = end_after_hit
    torch.manual_seed(seed)
    trained_run = {"dir": dir} if "@" in name else {}
    enter(make_policy(name, problem.env(1), seed=seed, **trained_run), problem)
    return np.inf if meter.hit is None else float(meter.hit)


def trained(size: int, seconds: float, dir: Path) -> str:
    """Id of a run of the covariant agent that learned on one size for so long."""
    settings = Settings(
        env="LJCluster-v0", n=size, num_steps=10**9, num_steps_per_iter=64 * size, max_time=seconds, progress=False,
        log_level="WARNING", name=f"lj{size}", dir=dir,
    )  # fmt: skip
    finished = train(settings)
    steps = finished.path.joinpath("metrics.csv").read_text().splitlines()[-1].split(",")[1]
    print(f"LJ{size}: {finished.id} learned for {seconds:.0f} s from {steps} evaluations", file=sys.stderr)
    return finished.id


if __name__ == "__main__":
    run(main)
