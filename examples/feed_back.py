"""Lowest structures become the seeds of the next size: ``python examples/feed_back.py``.

Lennard-Jones clusters grow from 7 to 26 atoms. In each round a policy adds one atom to the lowest distinct clusters of
the round before, what it builds is relaxed, and the lowest distinct ones are written to a file from which the next
round starts (`start` of the environment). Beside it each size is built from the empty canvas by the same policy, and
searched by SciPy's basin hopping, all with the same number of energy evaluations for each size. The table has the
energy above the known minimum. For the largest size a last row gives the others as many evaluations as the whole chain
of rounds has used.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from megen_gym.agents.registry import make_policy
from megen_gym.arena.cell import seed_everything
from megen_gym.arena.found import Finds
from megen_gym.arena.measure import distinct
from megen_gym.arena.playing import enter
from megen_gym.arena.problem import Problem
from megen_gym.cli import run
from megen_gym.errors import InputError
from megen_gym.io import write_structures
from megen_gym.rewards.lennard_jones import GLOBAL_MINIMA
from megen_gym.structure import StructureBatch

FOUND = 0.01
"""epsilon; energies up to this above the known minimum have found it (relaxations end before the last digit)."""


def lowest(problem: Problem, keep: int) -> tuple[float, StructureBatch]:
    """Energy of the best valid structure that was handed in, infinite without any, and the `keep` lowest distinct."""
    finds = Finds.of(problem)
    good = np.flatnonzero(finds.valid & np.isfinite(finds.value))
    good = good[np.argsort(finds.value[good], kind="stable")]
    batch = finds.batch(problem.task.symbols, (False, False, False))[good]
    return (float(finds.value[good[0]]) if len(good) else np.inf), batch[np.sort(distinct(batch))[:keep]]


def search(policy: str, budget: int, seed: int, keep: int, **arguments: Any) -> tuple[float, StructureBatch]:
    """What a policy finds in one environment; see :func:`lowest`."""
    seed_everything(seed)
    problem = Problem.make("LJCluster-v0", arguments, budget=budget, seed=seed)
    enter(make_policy(policy, problem.env(1), seed=seed), problem)
    return lowest(problem, keep)


def line(first: str, cells: Iterable[str | float]) -> str:
    """A row of the table."""
    return f"{first:>16s}" + "".join(f"{cell if isinstance(cell, str) else f'{cell:.3f}':>24s}" for cell in cells)


def main(
    first: int = 7,
    last: int = 26,
    policy: str = "compact",
    budget: int = 300,
    keep: int = 5,
    seeds: int = 3,
    out: Path = Path("runs/feed_back"),
) -> None:
    """Grow clusters seed by seed, and beside that each from nothing.

    Args:
        first: Atoms of the smallest cluster, which is built from the empty canvas.
        last: Atoms of the largest.
        policy: What builds: random, compact, a search such as regrow, or a trained run.
        budget: Energy evaluations for each size.
        keep: Distinct structures that a round hands on.
        seeds: Repetitions.
        out: Folder of the structures that were handed on.
    """
    if not 2 <= first < last <= max(GLOBAL_MINIMA) or budget < 1 or keep < 1 or seeds < 1:
        raise InputError(
            f"first {first}, last {last}, budget {budget}, keep {keep} and seeds {seeds} cannot be used; give 2 <= "
            f"first < last <= {max(GLOBAL_MINIMA)} and numbers of 1 or more"
        )
    ways = [f"{policy}, fed back", f"{policy}, from nothing", "scipy basin hopping"]
    sizes = range(first, last + 1)
    above, whole = np.zeros((len(sizes), len(ways), seeds)), np.zeros((len(ways), seeds))
    out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=above.size + whole.size, desc="searches") as bar:
        for seed in range(seeds):
            for row, n in enumerate(sizes):
                file = out / f"seed{seed}_{n - 1}.extxyz"
                start = {"formula": "Ar", "start": str(file)} if row else {"n": n}
                grown, kept = search(policy, budget, seed, keep, **start)
                write_structures(out / f"seed{seed}_{n}.extxyz", kept)
                fresh = search(policy, budget, seed, 1, n=n)[0] if row else grown
                hopped = search("scipy_basin_hopping", budget, seed, 1, n=n)[0]
                above[row, :, seed] = np.array([grown, fresh, hopped]) - GLOBAL_MINIMA[n]
                bar.update(len(ways))
            more = [search(one, budget * len(sizes), seed, 1, n=last)[0] for one in (policy, "scipy_basin_hopping")]
            whole[:, seed] = np.array([grown, *more]) - GLOBAL_MINIMA[last]
            bar.update(len(ways))
    above, whole = np.maximum(above, 0), np.maximum(whole, 0)
    print(f"\nenergy above the known minimum, mean of {seeds} seeds ({budget} evaluations for each size), epsilon")
    print(line("atoms", ways))
    for n, row in zip(sizes, above.mean(2), strict=True):
        print(line(str(n), row))
    print(line("mean", above.mean((0, 2))))
    print(line("± of seeds", above.mean(0).std(1)))
    print(line("found", [f"{count} of {len(sizes) * seeds}" for count in (above < FOUND).sum((0, 2))]))
    print(line(f"{last}, {budget * len(sizes)} each", whole.mean(1)))


if __name__ == "__main__":
    run(main)
