"""A generator proposes the structures of a search: ``python examples/generator_in_basin_hopping.py``.

G-SchNet learns for a minute or two and then takes part in a search: alone (it builds, what it builds is relaxed), and
as the moves of basin hopping (some atoms are taken away, the policy puts them back, the structure is relaxed). Beside
it are untrained policies in the same place, and SciPy's basin hopping, all with the same number of energy evaluations.

* ``--system molecule``: C3H6O under GFN2-xTB, learned from ASE's molecules of H, C and O without those of that formula.
  These are no minima of GFN2-xTB, and no energy is asked for. A hit is acetone, the lowest isomer.
* ``--system cluster``: a Lennard-Jones cluster of `n` atoms, learned from minima of 7 to 12 atoms that a short basin
  hopping finds; its evaluations are counted and told. A hit is the global minimum.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase.build import molecule
from tqdm import tqdm

from megen_gym.agents.gschnet.settings import Settings
from megen_gym.agents.gschnet.train import train
from megen_gym.agents.registry import make_policy
from megen_gym.arena.cell import seed_everything
from megen_gym.arena.found import Finds
from megen_gym.arena.measure import distinct
from megen_gym.arena.playing import enter
from megen_gym.arena.problem import Problem
from megen_gym.cli import run
from megen_gym.errors import InputError
from megen_gym.io import write_structures
from megen_gym.structure import StructureBatch

COARSE = {"spacing": 0.1}
"""Å between the places that G-SchNet knows; coarse will do, for everything is relaxed."""

SMALL: dict[str, Any] = {"features": 32, "head_hidden": 64, "lr_schedule": "cosine", "patience": None, "progress": True}
MOLECULE: dict[str, Any] = {
    "atom_types": "H,C,O", "filter": "composition==C3H6O", "n_interactions": 4, "position_noise": 0.02,
}  # fmt: skip
CLUSTER: dict[str, Any] = {
    "atom_types": "Ar", "use_covalent_radii": False, "placement_cutoff": 3.2, "prediction_cutoff": 7.0,
    "model_cutoff": 9.0, "n_interactions": 3, "head_layers": 3, "num_train": 0.85, "num_val": 0.15,
    "position_noise": 0.05, "draw_random_samples": 4,
}  # fmt: skip


def minima(problem: Problem, low: float) -> StructureBatch:
    """Distinct valid minima with energies (eV) up to `low` that were handed in."""
    finds = Finds.of(problem)
    batch = finds.batch(problem.task.symbols, (False, False, False))
    batch = batch[np.flatnonzero(finds.valid & finds.minimum & (finds.value <= low))]
    return batch[distinct(batch)]


def small_minima(path: Path, sizes: range, budget: int, seed: int) -> int:
    """Write a file of low Lennard-Jones minima, and say how many evaluations they cost."""
    found, spent = [], 0
    for size in sizes:
        problem = Problem.make("LJCluster-v0", {"n": size}, budget=budget, seed=seed)
        enter(make_policy("scipy_basin_hopping", problem.env(1), seed=seed), problem)
        found += minima(problem, 0.93 * min(one.value for one in problem.found)).to_atoms()
        spent += problem.meter.used
    path.parent.mkdir(parents=True, exist_ok=True)
    write_structures(path, found)
    return spent


def main(
    system: Literal["molecule", "cluster"] = "molecule",
    n: int = 13,
    epochs: int | None = None,
    budget: int = 300,
    seeds: int = 4,
    seed: int = 0,
    dir: Path = Path("runs"),
) -> None:
    """Train a generator, and let it search beside others.

    Args:
        system: molecule (C3H6O) or cluster (Lennard-Jones).
        n: Atoms of the cluster.
        epochs: Of G-SchNet; by default 80 for molecules and 250 for clusters.
        budget: Energy evaluations of each search, and for the minima of each size that a cluster is learned from.
        seeds: Searches of each kind.
        seed: Of the training.
        dir: Folder of the runs.
    """
    if seeds < 1:
        raise InputError(f"seeds is {seeds}; give at least 1")
    if system == "molecule":
        env = "Molecule-v0"
        arguments: dict[str, Any] = {"formula": "C3H6O", "symbols": "X,H,C,O", "reward": "gfn2", "on_refusal": "skip"}
        problem = Problem.make(env, arguments)
        acetone = StructureBatch.from_atoms([molecule("CH3COCH3")], problem.task.symbols)
        known: dict[str, Any] = {"known_minimum": float(problem.judge(acetone)[0]), "tolerance": 0.05}
        settings, window, spent = MOLECULE | {"max_epochs": epochs or 80}, 1.5, 0
    else:
        env, known = "LJCluster-v0", {}
        arguments = {"n": n, "on_refusal": "skip"}
        data = dir / "small_minima.extxyz"
        spent = small_minima(data, range(7, 13), budget, seed)
        settings, window = CLUSTER | {"max_epochs": epochs or 250, "data": str(data)}, 2.0
    trained = train(Settings(**SMALL, **settings, seed=seed, dir=dir, name=system))
    generator = f"gschnet@{trained.path}"
    entrants: dict[str, tuple[str, dict[str, Any]]] = {
        "scipy basin hopping": ("scipy_basin_hopping", {}),
        "regrow with random placement": ("regrow", {"policy": "random"}),
        "regrow with compact": ("regrow", {"policy": "compact"}),
        "regrow with G-SchNet": ("regrow", {"policy": generator, "policy_kwargs": COARSE, "share": 1.0}),
        "regrow with both": ("regrow", {"policy": generator, "policy_kwargs": COARSE}),
        "G-SchNet alone": (generator, COARSE),
    }
    rows = []
    with tqdm(total=len(entrants) * seeds, desc="searches") as bar:
        for words, (name, options) in entrants.items():
            hits, lows = [], []
            for number in range(seeds):
                seed_everything(number)
                problem = Problem.make(env, arguments, budget=budget, seed=number, **known)
                enter(make_policy(name, problem.env(1), seed=number, **options), problem)
                hits.append(np.inf if problem.meter.hit is None else problem.meter.hit)
                lows.append(len(minima(problem, problem.meter.target + window)))
                bar.update()
            shown = " ".join("-" if hit == np.inf else f"{hit:.0f}" for hit in sorted(hits))
            rows.append(f"{words:30s}{np.isfinite(hits).sum():4d}/{seeds}{np.mean(lows):8.1f}  {shown}")
    print(f"\n{problem.meter.target:.3f} eV or less is a hit; the training data cost {spent} evaluations")
    print(f"{'':30s}{'hits':>6s}{'minima':>8s}  evaluations to the first hit")
    print("\n".join(rows))


if __name__ == "__main__":
    run(main)
