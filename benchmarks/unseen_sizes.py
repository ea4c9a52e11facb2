"""Distinct low minima per 1,000 evaluations on sizes that were not in training.

``OMP_NUM_THREADS=1 python benchmarks/unseen_sizes.py --system lennard_jones`` trains on LJ7-12 and judges LJ13;
``--system gallium`` trains on Ga8-14 and judges Ga16, Ga17 and Ga18 under the energy ``soap_ridge``, which has forces.
Counted are relaxed structures in one piece that keep the windows of the task, no two of them alike, up to a share of it
above the lowest energy that anybody found in any seed of this run. Every evaluation counts, those of training do not.
Ratios are to the better one of the two basin hoppings.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch

from megen_gym.agents.ppo.settings import Settings
from megen_gym.agents.ppo_train import train
from megen_gym.agents.registry import make_policy
from megen_gym.analysis.table import render
from megen_gym.arena.found import Finds
from megen_gym.arena.measure import distinct_minima
from megen_gym.arena.playing import enter
from megen_gym.arena.problem import Problem
from megen_gym.cli import run

ALL_MOVES = "all moves: "
"""Before the name of a regrow whose trained agent makes all the moves, and not half of them."""

BASELINES = ("basin_hopping", "scipy_basin_hopping")


class System(NamedTuple):
    """What is trained on, and what is judged.

    Attributes:
        training: Settings of the training.
        env: Environment id.
        symbol: The element.
        sizes: Atoms of what is judged.
        arguments: Of the environment.
        windows: Shares of the best energy; minima up to so much above it are low.
    """

    training: dict[str, Any]
    env: str
    symbol: str
    sizes: tuple[int, ...]
    arguments: dict[str, Any]
    windows: tuple[float, ...]


SYSTEMS = {
    "lennard_jones": System(
        {"formula": "Ar", "size_range": (7, 12), "canvas_size": 13}, "LJCluster-v0", "Ar", (13,), {}, (0.1,)
    ),
    "gallium": System(
        {"formula": "Ga", "size_range": (8, 14), "canvas_size": 18, "reward": "soap_ridge"},
        "GaCluster-v0", "Ga", (16, 17, 18), {"reward": "soap_ridge"}, (0.02, 0.04),
    ),
}  # fmt: skip


def main(
    system: Literal["lennard_jones", "gallium"] = "lennard_jones",
    trained: str | None = None,
    train_time: float = 400.0,
    entrants: Sequence[str] = ("compact", "regrow", "symmetric_search"),
    budget: int = 1000,
    seeds: int = 5,
    dir: Path = Path("runs"),
) -> None:
    """Print a table.

    Args:
        system: lennard_jones or gallium.
        trained: Run of an agent that was trained on the small sizes; by default one is trained.
        train_time: Seconds of that training.
        entrants: Names of further policies.
        budget: Evaluations of each entrant and seed.
        seeds: How many.
        dir: Folder of the runs.
    """
    chosen = SYSTEMS[system]
    if trained is None:
        settings = Settings(
            env=chosen.env, n=None, num_steps=10**9, max_time=train_time, progress=False, log_level="WARNING",
            name=f"unseen-{system}", dir=dir, **chosen.training,
        )  # fmt: skip
        trained = train(settings).id
    names = [*BASELINES, *entrants, f"covariant@{trained}", f"regrow@{trained}", f"{ALL_MOVES}regrow@{trained}"]
    head = [word for share in chosen.windows for word in (f"within {share:.0%} per 1,000", "ratio")]
    cells = [["task", "policy", *head, "best (eV)", "structures"]]
    for size in chosen.sizes:
        played = {name: [play(chosen, name, size, budget, seed, dir) for seed in range(seeds)] for name in names}
        best = min(lowest(finds) for many in played.values() for finds, _ in many)
        rates = {
            name: np.array([
                [1000 / budget * low_minima(finds, symbols, best + share * abs(best)) for share in chosen.windows]
                for finds, symbols in many
            ])
            for name, many in played.items()
        }  # fmt: skip
        baseline = np.max([rates[name].mean(0) for name in BASELINES], axis=0)
        for name, rate in rates.items():
            told = zip(rate.mean(0), rate.std(0), baseline, strict=True)
            cells.append([
                f"{chosen.symbol}{size}", name,
                *(word for mean, spread, base in told
                  for word in (f"{mean:.1f} ± {spread:.1f}", f"{mean / base:.2f}" if base else "-")),
                f"{min(lowest(finds) for finds, _ in played[name]):.3f}",
                f"{np.mean([len(finds) for finds, _ in played[name]]):.0f}",
            ])  # fmt: skip
            print(" ".join(cells[-1]), rate.T.tolist(), file=sys.stderr, flush=True)
    print(render(cells))


def play(system: System, name: str, size: int, budget: int, seed: int, dir: Path) -> tuple[Finds, tuple[str, ...]]:
    """What an entrant handed in, and the symbols of the task."""
    options: dict[str, Any] = {"share": 1.0} if name.startswith(ALL_MOVES) else {}
    name = name.removeprefix(ALL_MOVES)
    arguments = {"formula": f"{system.symbol}{size}", **system.arguments}
    problem = Problem.make(system.env, arguments, budget=budget, seed=seed)
    torch.manual_seed(seed)
    options |= {"dir": dir} if "@" in name else {}
    enter(make_policy(name, problem.env(1), seed=seed, **options), problem)
    return Finds.of(problem), tuple(problem.task.symbols)


def lowest(finds: Finds) -> float:
    """eV, lowest energy of a valid structure; inf if there is none."""
    good = finds.valid & np.isfinite(finds.value)
    return float(finds.value[good].min(initial=np.inf))


def low_minima(finds: Finds, symbols: tuple[str, ...], low: float) -> int:
    """How many distinct valid minima are at or below `low` (eV)."""
    chosen = np.flatnonzero(finds.valid & finds.minimum & (finds.value <= low))
    chosen = chosen[np.argsort(finds.value[chosen], kind="stable")]
    return len(distinct_minima(finds.batch(symbols, (False, False, False))[chosen], finds.value[chosen]))


if __name__ == "__main__":
    run(main)
