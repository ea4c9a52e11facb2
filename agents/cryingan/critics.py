"""What critics see of a structure, and the default critics.

A critic reads a table with one row per atom: its place (coordinate critic) or the distances to its neighbours (distance
critic). A :class:`View` makes those tables from grouped fractions (B, N, 3).
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from megen_gym.agents.cryingan.generator import Fourier
from megen_gym.agents.cryingan.published import LeakyReLU
from megen_gym.agents.cryingan.system import System

FINE = 20.0
"""Distances are given in twentieths of the mean neighbour distance, about the width of a bond's distribution."""


class View(Protocol):
    """Tables of a batch of structures; fractions (B, N, 3) are grouped by element."""

    columns: int

    def places(self, fractions: Tensor) -> Tensor:
        """(B, N, 3) what the coordinate critic sees."""

    def between(self, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
        """Places between those of two structures, `share` (B, 1, 1) of the way."""

    def distances(self, fractions: Tensor) -> Tensor:
        """(B, N, columns) what the distance critic sees."""


class PublishedView:
    """Fractions as they are, and the k smallest distances in Å, all elements alike, periodic images included."""

    def __init__(self, system: System, n_neighbors: int) -> None:
        self.lattice, self.columns = system.lattice, n_neighbors

    def places(self, fractions: Tensor) -> Tensor:
        return fractions - fractions.detach().floor() * torch.tensor(self.lattice.pbc, device=fractions.device)

    def between(self, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
        return real + share * (fake - real)

    def distances(self, fractions: Tensor) -> Tensor:
        found: Tensor = self.lattice.nearest(self.lattice.cartesian(fractions), self.columns)
        return found


class PeriodicView:
    """Positions, and the k smallest distances to the atoms of each element, in units of the mean neighbour distance."""

    def __init__(self, system: System, n_neighbors: int, spacing: float) -> None:
        self.lattice, self.counts, self.spacing = system.lattice, system.counts, spacing
        self.kept = [min(n_neighbors, count - 1) or 1 for count in system.counts]
        self.columns = sum(self.kept)

    def places(self, fractions: Tensor) -> Tensor:
        positions: Tensor = self.lattice.cartesian(fractions)
        return positions / self.spacing

    def between(self, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
        way: Tensor = self.lattice.minimum_image((fake - real) * self.spacing)
        return real + share * way / self.spacing

    def distances(self, fractions: Tensor) -> Tensor:
        """Ascending for each element; a lone atom of an element has no distance to another of it, but 0."""
        all_pairs: Tensor = self.lattice.distances(self.lattice.cartesian(fractions))
        own = torch.eye(all_pairs.shape[-1], dtype=torch.bool, device=all_pairs.device)
        far = all_pairs + own * 1e6
        parts = []
        for kept, pairs, lone in zip(self.kept, torch.split(far, list(self.counts), -1), self.counts, strict=True):
            parts.append(pairs.topk(kept, -1, largest=False).values if lone > 1 else pairs * (pairs < 1e5))
        return torch.cat(parts, -1) * (FINE / self.spacing)


class AtomSetCritic(nn.Module):
    """A table (B, N, K) -> one score (B, 1): atoms one by one, the mean of each element, dense.

    Args:
        counts: Atoms of each element.
        columns: K.
        features: Periodic features of the first three columns in units of `unit` Å; None for distances.
        unit: Å.
        width: Hidden features.
    """

    kinds: Tensor

    def __init__(
        self, counts: tuple[int, ...], columns: int, features: Fourier | None, unit: float, width: int = 64
    ) -> None:
        super().__init__()
        self.counts, self.features, self.unit = counts, features, unit
        self.gain = 1.0 if features is not None else FINE
        kinds = torch.eye(len(counts)).repeat_interleave(torch.tensor(counts), 0)
        self.register_buffer("kinds", kinds, persistent=False)
        size = (columns if features is None else features.size) + len(counts)
        self.atom = nn.Sequential(
            *(nn.Linear(size, width), LeakyReLU(), nn.Linear(width, width), LeakyReLU()),
            *(nn.Linear(width, width), LeakyReLU()),
        )
        self.whole = nn.Sequential(nn.Linear(width * len(counts), 2 * width), LeakyReLU(), nn.Linear(2 * width, 1))

    def forward(self, table: Tensor) -> Tensor:
        seen = self.features(table * self.unit) if self.features is not None else table * (3 / FINE) - 4.0
        rows = self.atom(torch.cat([seen, self.kinds.expand(len(table), -1, -1)], -1))
        pooled = [part.mean(1) for part in torch.split(rows, list(self.counts), 1)]
        return cast(Tensor, self.gain * self.whole(torch.cat(pooled, -1)))
