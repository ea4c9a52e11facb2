"""Where the next atom goes: a density on a grid around the focus, evaluated only where it can matter.

The published density is the product of one distance distribution per deciding atom, on all points of a cubic grid
between two radii (153,058 points at 0.05 Å), raised to the power 1 / temperature. Here the grid is divided into blocks.
From the largest value that each distribution takes over the distances that a block spans follows an upper bound of the
block's mass; blocks are evaluated from the highest bound on, until all the others together can hold no more than a
given share. The total variation distance to the full grid is at most that share, for every density.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d

from megen_gym.errors import InputError

EDGE = 4
"""Voxels along the edge of a block."""

CACHE = 1 << 18
"""Distances that are computed at one time, so that they stay near the processor."""

MOST = 1 << 26
"""Voxels of a cube around the grid at most."""

FIRST = 16
"""Blocks that are evaluated before the bound is looked at."""


@dataclass(frozen=True)
class Bins:
    """Equally spaced distance bins.

    Attributes:
        low: Å, centre of the first.
        width: Å.
        count: Number of bins.
    """

    low: float
    width: float
    count: int

    def index(self, distance: Tensor) -> Tensor:
        """Bin of each distance; the last one beyond it."""
        return ((distance - self.low) / self.width + 0.5).clamp_(0, self.count - 1).long()


class Density(Protocol):
    """Unnormalised log-densities of the next atom of P molecules."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor) -> Density:
        """Those of some molecules."""
        ...

    def at(self, points: Tensor) -> Tensor:
        """(P, G) at points (P, G, 3), Å from the focus."""
        ...

    def bounds(self, centres: Tensor, half: float) -> Tensor:
        """(P, C) upper bounds among points that are no more than `half` Å from centres (C, 3)."""
        ...


@dataclass(frozen=True)
class DistanceDensity:
    """Product of the distance distributions that R atoms predict.

    Attributes:
        places: (P, R, 3) Å from the focus.
        tables: (P, R, bins) log-probability of each distance; zeros for padding.
        bins: Of the distances.
    """

    places: Tensor
    tables: Tensor
    bins: Bins

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: Tensor) -> DistanceDensity:
        """Those of some molecules."""
        return DistanceDensity(self.places[rows], self.tables[rows], self.bins)

    def at(self, points: Tensor) -> Tensor:
        """(P, G) at points (P, G, 3), Å from the focus."""
        size = max(1, CACHE // (self.places.shape[1] * points.shape[1]))
        rows = torch.split(torch.arange(len(points), device=points.device), size)
        parts = [self.tables[row].gather(2, self.bins.index(_distances(self.places[row], points[row]))) for row in rows]
        return torch.cat([part.sum(1) for part in parts])

    def bounds(self, centres: Tensor, half: float) -> Tensor:
        """(P, C) upper bounds among points that are no more than `half` Å from centres (C, 3)."""
        reach = math.ceil(half / self.bins.width + 1)
        highest = max_pool1d(self.tables, 2 * reach + 1, stride=1, padding=reach)
        return highest.gather(2, self.bins.index(_distances(self.places, centres))).sum(1)


class Grid:
    """Voxels between two radii around the focus, in blocks.

    Args:
        spacing: Å between voxels (`grid_spacing`).
        nearest: Å from the focus at least (`grid_distance_min`).
        farthest: Å from the focus at most (the placement cut-off).
        tolerance: Largest share of the probability that may be left out.
        device: Where densities are evaluated.

    Attributes:
        voxels: (C, V, 3) Å from the focus, by block.
        inside: (C, V) which of them belong to the grid.

    Raises:
        InputError: for a grid without voxels, or with too many.
    """

    def __init__(
        self,
        spacing: float,
        nearest: float,
        farthest: float,
        tolerance: float = 1e-3,
        device: torch.device | str = "cpu",
    ) -> None:
        if not spacing > 0 or not 0 <= nearest < farthest:
            raise InputError(
                f"grid_spacing {spacing}, grid_distance_min {nearest} and a placement cut-off of {farthest} Å make no "
                "grid; give a spacing above 0 and a smaller distance"
            )
        self.tolerance, self.spacing = tolerance, spacing
        steps = math.floor(farthest / spacing + 1e-9)
        padded = -(-(2 * steps + 1) // EDGE) * EDGE
        if padded**3 > MOST:
            raise InputError(
                f"a grid of {spacing} Å up to {farthest} Å has more voxels than fit into memory; give a coarser one"
            )
        axis = torch.arange(padded) - steps
        points = torch.cartesian_prod(axis, axis, axis).view(*[padded // EDGE, EDGE] * 3, 3)
        blocks = points.permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, EDGE**3, 3)
        radius = blocks.double().mul(spacing).norm(dim=2)
        inside = (radius >= nearest - 1e-9) & (radius <= farthest + 1e-9) & (blocks.abs().amax(2) <= steps)
        kept = inside.any(1)
        if not kept.any():
            raise InputError(f"a grid of {spacing} Å has no voxel between {nearest} and {farthest} Å; give a finer one")
        self.voxels = blocks[kept].float().mul(spacing).to(device)
        self.inside = inside[kept].to(device)
        self.centres = self.voxels.mean(1)
        self.sizes = self.inside.sum(1).float().log()
        self.half = (EDGE - 1) / 2 * spacing * math.sqrt(3)

    @property
    def n_voxels(self) -> int:
        """Voxels of the grid."""
        return int(self.inside.sum())

    def draw(self, density: Density, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """A voxel for each of P molecules.

        Args:
            density: Of the next atom.
            temperature: The density is raised to its inverse.
            uniform: (P, 2) random numbers in [0, 1).

        Returns:
            Å from the focus (P, 3), and the logarithm of the voxel's probability (P,).
        """
        masses, chosen = self._masses(density, temperature)
        total = masses.logsumexp(1)
        at = _pick(masses, uniform[:, 0])
        block = chosen.gather(1, at[:, None])
        logits = self._logits(density, block, temperature)[:, 0]
        voxel = _pick(logits, uniform[:, 1])
        rows = torch.arange(len(voxel), device=voxel.device)
        return self.voxels[block[:, 0], voxel], logits[rows, voxel] - total

    def log_prob(self, density: Density, temperature: float, at: Tensor) -> Tensor:
        """(P,) logarithm of the probability of the voxels nearest to `at` (P, 3), differentiable.

        The nearest voxel of the whole grid is taken, also for a place outside of it.
        """
        masses, _ = self._masses(density, temperature)
        flat = self.voxels.flatten(0, 1)[self.inside.flatten()]
        voxel = flat[torch.cdist(at.to(flat.dtype), flat).argmin(1)]
        return density.at(voxel[:, None])[:, 0] / temperature - masses.logsumexp(1)

    def all_log_prob(self, density: Density, temperature: float) -> Tensor:
        """(P, C V) normalised over the whole grid, block by block; -inf outside. For checking, not for speed."""
        every = torch.arange(len(self.voxels), device=self.voxels.device).expand(len(density), -1)
        return self._logits(density, every, temperature).flatten(1).log_softmax(1)

    def _masses(self, density: Density, temperature: float) -> tuple[Tensor, Tensor]:
        """Logarithm of the mass of the blocks that matter (P, K), and which they are."""
        with torch.no_grad():
            bound = density.bounds(self.centres, self.half) / temperature + self.sizes
        order = bound.topk(min(8 * FIRST, bound.shape[1]), 1).indices
        parts: list[Tensor] = []
        blocks: list[Tensor] = []
        rows, begin, left, count = torch.arange(len(density), device=bound.device), 0, bound.shape[1], FIRST
        rest, seen = bound.clone(), bound.new_full((len(density),), -torch.inf)
        while len(rows) and left:
            if begin >= order.shape[1]:
                order, begin = rest.argsort(1, descending=True), 0
            which = order[:, begin : begin + count]
            some = which[rows]
            mass = self._logits(density[rows], some, temperature).logsumexp(2)
            parts.append(mass.new_full((len(density), some.shape[1]), -torch.inf).index_copy(0, rows, mass))
            blocks.append(which)
            with torch.no_grad():
                rest[rows[:, None], some] = -torch.inf
                seen[rows] = torch.logaddexp(seen[rows], mass.logsumexp(1))
                open_ = rest[rows].logsumexp(1) > seen[rows] + math.log(self.tolerance)
            rows, begin, left = rows[open_], begin + some.shape[1], left - some.shape[1]
            count = min(2 * count, left)
        return torch.cat(parts, 1), torch.cat(blocks, 1)

    def _logits(self, density: Density, blocks: Tensor, temperature: float) -> Tensor:
        """(P, K, V) log-densities over temperature in blocks (P, K); -inf outside of the grid."""
        value = density.at(self.voxels[blocks].flatten(1, 2)).view(*blocks.shape, -1)
        return (value / temperature).masked_fill(~self.inside[blocks], -torch.inf)


def _distances(places: Tensor, points: Tensor) -> Tensor:
    """(P, R, G) between (P, R, 3) and (G, 3) or (P, G, 3)."""
    cross = places @ points.transpose(-1, -2)
    square = (points**2).sum(-1)
    square = square[:, None] if points.ndim == 3 else square
    return ((places**2).sum(2)[..., None] + square - 2 * cross).clamp_(min=0).sqrt_()


def _pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """(P,) index drawn from unnormalised log-probabilities (P, K)."""
    share = logits.double().softmax(1).cumsum(1)
    index = torch.searchsorted(share, (uniform.double() * share[:, -1])[:, None], right=True)[:, 0]
    last = (logits > -torch.inf).double().cumsum(1).argmax(1)
    return torch.minimum(index, last)
