"""What training needs of each structure, computed once: counts, shells, short distances; and structures to distrust.

A model of counts alone can be paid for overlap. For every relaxed reference cluster this module makes *exploits*,
copies that must never have a lower energy: shrunken ones, and ones in which an atom was moved on top of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megen_gym.rewards.dart import tad
from megen_gym.rewards.dart.dataset import Index, Labelled
from megen_gym.rewards.dart.net import DartNet

SCALES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.88, 0.91, 0.93, 0.95, 0.96, 0.97, 0.98)
OVERLAPS = (0.3, 0.6, 1.0, 1.3, 1.6, 1.75, 1.9, 1.97)
STRAINED = ("strain", "rattle", "overlap", "gas")
UNRELAXED = (*STRAINED, "build")
Positions = NDArray[np.float64]

REPULSION_RANGE = 4.0
"""Å; pairs beyond it repel in no model."""

JITTER, STRETCH = 0.04, 0.01
"""Å per coordinate, and fraction of the size, by which :func:`moved` moves; about 0.01 eV per atom."""


@dataclass(frozen=True)
class Features:
    """M structures padded to N atoms.

    Attributes:
        kind: (M, N) place of each atom's triple in `triples`.
        shell: (M, N, N) int8 shell codes.
        mask: (M, N) true where there is an atom.
        short: (M, P) Å, distances below the cut-off of the repulsion; infinite as padding.
        triples: (U, 3) distinct triples of counts.
    """

    kind: Tensor
    shell: Tensor
    mask: Tensor
    short: Tensor
    triples: Tensor

    def to(self, device: str | torch.device) -> Features:
        """These features on another device."""
        return Features(*(value.to(device) for value in self.__dict__.values()))

    def energies(self, net: DartNet, rows: Tensor, kcal: float) -> Tensor:
        """(B,) eV of the structures `rows`, with gradients; `kcal` is 1 kcal/mol in eV."""
        mask = self.mask[rows]
        used, kind = torch.unique(self.kind[rows], return_inverse=True)
        bags = tad.bags(self.shell[rows].int(), kind, len(used))
        atomic: Tensor = net(self.triples[used], bags[mask])
        owner = torch.arange(len(rows), device=mask.device)[:, None].expand_as(mask)[mask]
        total: Tensor = atomic.new_zeros(len(rows)).index_add(0, owner, atomic) * kcal
        if net.repulsion is not None:
            total = total + net.repulsion(self.short[rows]).sum(1)
        return total


def featurise(structures: Sequence[Positions]) -> Features:
    """Features of clusters of any sizes, each (n, 3) Å."""
    width = max(len(positions) for positions in structures)
    kinds, shells, masks, shorts = [], [], [], []
    for positions in structures:
        n = len(positions)
        padded, mask = torch.zeros(1, width, 3, dtype=torch.float64), torch.zeros(1, width, dtype=torch.bool)
        padded[0, :n], mask[0, :n] = torch.from_numpy(positions), True
        pairs = tad.distances(padded, mask)
        counts, shell = tad.topology(tad.stretched(pairs, DartNet.bond))
        flat = pairs[0][torch.ones(width, width, dtype=torch.bool).triu(1)]
        kinds.append(tad.pack(counts[0]))
        shells.append(shell[0].to(torch.int8))
        masks.append(mask[0])
        shorts.append(flat[flat < REPULSION_RANGE].float())
    codes, kind = torch.unique(torch.stack(kinds), return_inverse=True)
    short = torch.nn.utils.rnn.pad_sequence(shorts, batch_first=True, padding_value=torch.inf)
    return Features(kind, torch.stack(shells), torch.stack(masks), short, tad.unpack(codes))


def references(data: Labelled, group: Index) -> Index:
    """Rows that stand for real clusters: the lowest energy of each size in each group, without the unrelaxed kinds."""
    lowest: dict[tuple[int, int], int] = {}
    for row, (place, size) in enumerate(zip(group.tolist(), data.sizes.tolist(), strict=True)):
        if size < 2 or data.kinds[row] in UNRELAXED:
            continue
        best = lowest.setdefault((place, size), row)
        if data.energies[row] < data.energies[best]:
            lowest[place, size] = row
    return np.array(sorted(lowest.values()), dtype=np.int64)


def shrunken(positions: Positions, scale: float) -> Positions:
    """A copy scaled about its centroid."""
    centre: Positions = positions.mean(0)
    return centre + scale * (positions - centre)


def moved(rng: np.random.Generator, positions: Positions) -> Positions:
    """A copy that is stretched by about 1 % and whose atoms are displaced by about 0.04 Å."""
    noise: Positions = rng.normal(scale=JITTER, size=positions.shape)
    return positions * (1 + rng.normal(scale=STRETCH)) + noise


def overlapping(rng: np.random.Generator, positions: Positions, distance: float) -> Positions:
    """A copy whose last atom was moved to `distance` Å from a random other one."""
    direction = rng.normal(size=3)
    moved = positions.copy()
    moved[-1] = positions[rng.integers(len(positions) - 1)] + distance * direction / np.linalg.norm(direction)
    return moved


def exploits(rng: np.random.Generator, positions: Positions) -> list[Positions]:
    """Copies of a real cluster that must not have a lower energy, one per entry of `SCALES` and of `OVERLAPS`."""
    return [shrunken(positions, scale) for scale in SCALES] + overlaps(rng, positions)


def overlaps(rng: np.random.Generator, positions: Positions) -> list[Positions]:
    """The second kind of :func:`exploits`, which has to be learned; the first, DartNet excludes by its form."""
    moved = rng.permutation(len(positions))
    copies = []
    for place, distance in enumerate(OVERLAPS):
        last = moved[place % len(moved)]
        copies.append(
            overlapping(rng, np.concatenate([np.delete(positions, last, 0), positions[last : last + 1]]), distance)
        )
    return copies
