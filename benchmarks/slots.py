"""Crystals: the vector environment against a loop over single ones, neighbours against 27 images, what contacts cost.

``OMP_NUM_THREADS=1 python benchmarks/slots.py``. Rates are per CPU second; compare the ratios. The brute force is what
published code does: 27 copies of every atom, all distances, the k smallest; it is not exact in thin or skewed cells.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import torch
from ase.build import bulk
from torch import Tensor

import megen_gym  # noqa: F401
from megen_gym.agents.baselines import RandomValid
from megen_gym.envs.crystals import CrystalSlotsEnv
from megen_gym.envs.vector import make_vec
from megen_gym.periodic import Lattice

SLOTS = {"template": "hcp", "supercell": (3, 3, 3), "min_distance": 0, "reward": "contacts"}
"""54 slots; every step places an atom, so that all of them cost the same."""


def per_second(call: Callable[[], object], seconds: float) -> float:
    """Calls per CPU second, after a warm-up."""
    call()
    done, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        call()
        done += 1
    return done / (time.process_time() - start)


def wyckoff_steps(num_envs: int, seconds: float, **options: object) -> tuple[float, float]:
    """Steps of CrystalWyckoff-v0 per CPU second without and with its reward; the policy's time does not count."""
    vector = make_vec("CrystalWyckoff-v0", num_envs, **options)
    policy, reward = RandomValid(vector.task, tries=8), vector.engine.reward
    steps, spent = 0, {"all": 0.0, "reward": 0.0}

    def timed(*arguments: object) -> object:
        start = time.process_time()
        outcome = reward(*arguments)
        spent["reward"] += time.process_time() - start
        return outcome

    vector.engine.reward = timed
    observation, _ = vector.reset(seed=0)
    while spent["all"] < seconds:
        action, _ = policy.predict(observation)
        start = time.process_time()
        observation, *_ = vector.step(action)
        spent["all"] += time.process_time() - start
        steps += num_envs
    return steps / (spent["all"] - spent["reward"]), steps / spent["all"]


def brute_force(positions: Tensor, cell: Tensor, k: int) -> Tensor:
    """(B, N, k) Å among the 27 images of every atom."""
    shifts = torch.tensor(sorted(itertools.product((-1, 0, 1), repeat=3), key=lambda n: np.abs(n).sum()))
    images = positions[:, :, None] + shifts.to(positions.dtype) @ cell
    distances = torch.cdist(positions, images.flatten(1, 2), compute_mode="donot_use_mm_for_euclid_dist")
    return distances.topk(k + 1, -1, largest=False).values[..., 1:]


def main(num_envs: int = 256, batch: int = 32, k: int = 6, seconds: float = 5.0) -> None:
    """Print three tables.

    Args:
        num_envs: Environments of the vector environment.
        batch: Structures of the neighbour search.
        k: Neighbours of each atom.
        seconds: CPU seconds per measurement.
    """
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1, 1, (num_envs, 3)).astype(np.float32)
    print("CrystalSlots-v0, 54 slots, fractional: steps per CPU second")
    print(f"{'':24s}{'vector':>10s}{'loop':>10s}{'ratio':>8s}")
    for pbc in ((True, True, True), (True, True, False)):
        vector = make_vec("CrystalSlots-v0", num_envs, **SLOTS, pbc=pbc)
        vector.reset(seed=0)
        single = CrystalSlotsEnv(**SLOTS, pbc=pbc)
        single.reset(seed=0)

        def step(single: CrystalSlotsEnv = single) -> None:
            if any(single.step(actions[0])[2:4]):
                single.reset()

        fast = num_envs * per_second(lambda vector=vector: vector.step(actions), seconds)  # type: ignore[misc]
        slow = per_second(step, seconds)
        print(f"pbc {pbc!s:20s}{fast:10.0f}{slow:10.0f}{fast / slow:8.1f}")

    print(f"\n{k} nearest neighbours with gradient, {batch} structures of 54 atoms, float32: structures per CPU second")
    print(f"{'':24s}{'Lattice':>10s}{'27 images':>10s}{'ratio':>8s}")
    atoms = bulk("Mg", "hcp", a=3.21, c=5.21).repeat((3, 3, 3))
    cell = torch.tensor(np.asarray(atoms.cell), dtype=torch.float32)
    lattice = Lattice(np.asarray(atoms.cell))
    sets = {
        "crystal, 0.1 Å off": atoms.positions + 0.1 * rng.normal(size=(batch, 54, 3)),
        "random": rng.uniform(size=(batch, 54, 3)) @ np.asarray(atoms.cell),
        "collapsed": 0.3 * rng.normal(size=(batch, 54, 3)),
    }
    for name, positions in sets.items():
        points = torch.tensor(positions, dtype=torch.float32, requires_grad=True)
        mine = per_second(lambda p=points: lattice.nearest(p, k).sum().backward(), seconds)  # type: ignore[misc]
        theirs = per_second(lambda p=points: brute_force(p, cell, k).sum().backward(), seconds)  # type: ignore[misc]
        print(f"{name:24s}{mine * batch:10.0f}{theirs * batch:10.0f}{mine / theirs:8.1f}")

    print("\nCrystalWyckoff-v0, random valid moves: steps per CPU second; share: CPU time of contacts over the task's")
    print(f"{'':24s}{'bare task':>10s}{'contacts':>10s}{'share':>8s}")
    for case in (
        {"composition": "BaTiO3"},
        {"spacegroup": [2, 47, 225], "elements": "Cu,Au"},
        {"spacegroup": 1, "elements": "C", "n_max": 20},
    ):
        bare, paid = wyckoff_steps(num_envs, seconds, reward="contacts", **case)
        name = f"{case.get('composition') or case['elements']} in {case.get('spacegroup', 221)}"
        print(f"{name:24s}{bare:10.0f}{paid:10.0f}{bare / paid - 1:8.2f}")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main, as_positional=False)
