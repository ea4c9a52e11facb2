"""Energies per second of DART's fast path beside a straightforward implementation: ``python benchmarks/dart.py``.

All run in this process on one thread, with the bundled weights, on random packings of Ga18; for the comparison the
weights go without the guard against compression, which the published model does not have. The straightforward one
follows the published scheme: one structure at a time, neighbour lists filled atom by atom, branches evaluated on padded
lists. Its energies are compared with the fast ones, so that the ratio is one between equals.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import celu

sys.path[0] = str(Path(__file__).resolve().parents[1])

from megen_gym.rewards.dart.net import BRANCHES, DartNet
from megen_gym.rewards.dart.reward import Dart
from megen_gym.rewards.dart.weights import load_net, load_state, save_state
from megen_gym.structure import StructureBatch


def straightforward(net: DartNet, positions: NDArray[np.float64]) -> float:
    """kcal/mol of one structure, (n, 3) Å."""
    points = torch.from_numpy(positions)
    n = len(points)
    distances = torch.cdist(points, points)
    first, second, third = ((distances < cutoff).sum(1) for cutoff in (3.49, 6.3, 15.0))
    counts = torch.stack([first, second - first, third - second], dim=1).float()
    lists = torch.zeros(len(BRANCHES), n, n, 3)
    for i in range(n):
        filled = [0] * len(BRANCHES)
        for j in range(n):
            distance = float(distances[i, j])
            if i != j and distance <= 0.5:
                continue
            branch = 0 if i == j else 1 if distance < 3.49 else 2 if distance < 6.3 else 3
            lists[branch, i, filled[branch]] = counts[j]
            filled[branch] += 1
    hidden = torch.zeros(n, net.widths[1])
    for name, rows in zip(BRANCHES, lists, strict=True):
        out = celu(net.get_submodule(f"{name}1")(rows), 0.1)
        out = celu(net.get_submodule(f"{name}2")(out), 0.1)
        hidden = hidden + (out * (rows.sum(-1, keepdim=True) != 0)).sum(1)
    for name in ("inter1", "inter2", "inter3"):
        hidden = celu(net.get_submodule(name)(hidden), 0.1)
    return float(net.inter4(hidden).detach().sum())


def best_rate(count: int, work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Energies per second: the best of `repeats` by the clock, and their mean by processor time."""
    clock, spent = [], time.process_time()
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        clock.append(time.perf_counter() - begun)
    return count / min(clock), count * repeats / (time.process_time() - spent)


def main(batch: int = 512, atoms: int = 18, repeats: int = 20, device: str = "cpu") -> None:
    """Measure and print.

    Args:
        batch: Structures per call of the fast path.
        atoms: Atoms of each.
        repeats: Calls of the fast path, every one with structures that it has not seen.
        device: Where the fast path runs.
    """
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.npz"
        save_state(bare, {k: v for k, v in load_state()[0].items() if not k.startswith("repulsion")}, {})
        reward, net = Dart(bare, device=device), load_net(bare)
    guarded = Dart(device=device)
    species = np.ones((batch, atoms), dtype=np.int64)

    def fresh() -> StructureBatch:
        positions = rng.normal(size=(batch, atoms, 3)) * 1.05 * atoms ** (1 / 3)
        return StructureBatch(positions, species, ("X", "Ga"))

    batches = iter([fresh() for _ in range(2 * repeats + 5)])
    for _ in range(5):
        warm = next(batches)
        fast = reward.kcal(warm)
        guarded.kcal(warm)
    some = warm.positions[:64]
    slow = np.array([straightforward(net, positions) for positions in some])
    fast_clock, fast_cpu = best_rate(batch, lambda: reward.energy(next(batches)), repeats)
    guard_clock, guard_cpu = best_rate(batch, lambda: guarded.energy(next(batches)), repeats)
    slow_clock, slow_cpu = best_rate(len(some), lambda: [straightforward(net, p) for p in some], 3)
    print(
        f"Ga{atoms}, batch {batch}, one thread, float32, {device}; "
        f"largest difference {abs(slow - fast[:64]).max():.1e} kcal/mol"
    )
    print(f"fast path          {fast_clock:10,.0f} energies/s by the clock, {fast_cpu:10,.0f} by processor time")
    print(f"... with the guard {guard_clock:10,.0f} energies/s by the clock, {guard_cpu:10,.0f} by processor time")
    print(f"straightforward    {slow_clock:10,.0f} energies/s by the clock, {slow_cpu:10,.0f} by processor time")
    print(f"ratio              {fast_clock / slow_clock:10,.0f}")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main, as_positional=False)
