"""A density over directions from the focus: harmonics with a bounded sharpness, on points that resolve it.

log p(u) = log sum_c exp f_c(u) - log Z,  f_c(u) = sum_lm a_clm Y_lm(u), after Symphony (Daigavane et al., ICLR 2024).

The sharpest peak is set by the curvature of f. Over all functions of degree l with sum_m a_lm² = 1 the slope and the
curvature along a great circle are at most the square roots of
(2l + 1) L / 8 pi  and  (2l + 1) L (3L - 2) / 32 pi,  L = l (l + 1),
since ((2l + 1) / 4 pi) P_l(cos t) reproduces them. Times the norms of a_l, their sums over l bound those of f.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from e3nn import o3
from torch import Tensor, nn
from torch.nn.functional import normalize

from megen_gym.agents.covariant.sphere import degrees, harmonics
from megen_gym.agents.gschnet.grid import CACHE, DistanceDensity

CURVATURE = 1600.0
"""Of f at most: a peak at its top is no sharper than a Gaussian of 1.4 degrees, 0.03 Å at 1.2 Å."""

POINTS = 6000
"""On the sphere, 2.6 degrees apart."""

CORE = 0.1
"""Å from the focus below which volume elements stop shrinking."""


def fibonacci(count: int) -> Tensor:
    """(count, 3) unit vectors, each for the same share of the sphere; float64.

    Bands of equal area, a golden section of the turn apart (Swinbank and Purser, Q. J. R. Meteorol. Soc. 132, 1769).
    """
    step = torch.arange(count, dtype=torch.float64) + 0.5
    z, turn = 1 - 2 * step / count, math.pi * (1 + math.sqrt(5)) * step
    radius = torch.sqrt(1 - z**2)
    return torch.stack([radius * torch.cos(turn), radius * torch.sin(turn), z], 1)


class Sphere(nn.Module):
    """Functions of degree up to `lmax`, their bounds, and points to normalise on.

    Args:
        lmax: Largest degree.
        points: Q.
    """

    points: Tensor
    table: Tensor
    degree: Tensor
    steepest: Tensor
    sharpest: Tensor
    turns: Tensor

    def __init__(self, lmax: int, points: int = POINTS) -> None:
        super().__init__()
        self.lmax, places = lmax, fibonacci(points)
        order = torch.arange(lmax + 1, dtype=torch.float64)
        product = order * (order + 1)
        slope = torch.sqrt((2 * order + 1) * product / (8 * math.pi))
        self.register_buffer("points", places.float(), persistent=False)
        self.register_buffer("table", harmonics(lmax, places).T.float().contiguous(), persistent=False)
        self.register_buffer("degree", degrees(lmax), persistent=False)
        self.register_buffer("steepest", slope.float(), persistent=False)
        self.register_buffer("sharpest", (slope * torch.sqrt((3 * product - 2).clamp(min=0) / 4)).float(), False)
        turns = torch.zeros(3, (lmax + 1) ** 2, (lmax + 1) ** 2)
        for number in range(lmax + 1):
            mine = slice(number**2, (number + 1) ** 2)
            turns[:, mine, mine] = o3.so3_generators(number).float()
        self.register_buffer("turns", turns, persistent=False)

    def harmonics(self, points: Tensor) -> Tensor:
        """(..., M) of the directions of points (..., 3)."""
        return harmonics(self.lmax, points)

    def sizes(self, series: Tensor) -> Tensor:
        """(P, C, lmax + 1) norms of the coefficients (P, C, M) of each degree."""
        square = series.new_zeros(*series.shape[:2], self.lmax + 1).index_add(2, self.degree, series**2)
        return torch.sqrt(square + 1e-12)

    def limited(self, series: Tensor) -> Tensor:
        """Coefficients (P, C, M), scaled down where they are steep, so that curvatures stay below the bound."""
        share = self.curvatures(series)[..., None] / CURVATURE
        return series / torch.sqrt(1 + share**2)

    def slopes(self, series: Tensor) -> Tensor:
        """(P, C) upper bounds per radian."""
        return self.sizes(series) @ self.steepest.to(series.dtype)

    def curvatures(self, series: Tensor) -> Tensor:
        """(P, C) upper bounds per radian squared."""
        return self.sizes(series) @ self.sharpest.to(series.dtype)

    def highest(self, series: Tensor, points: Tensor, turn: Tensor) -> Tensor:
        """(P, G) upper bounds of log sum_c exp f_c in caps of radius `turn` (G,) around directions (G, 3).

        Slopes at the points are exact: those of f under turns about three axes.
        """
        table = self.harmonics(points).T
        turned = torch.einsum("amn,pcn->apcm", self.turns.to(series.dtype), series)
        slope = torch.sqrt(((turned @ table) ** 2).sum(0))
        near = slope * turn + self.curvatures(series)[..., None] * (turn**2 / 2)
        return (series @ table + torch.minimum(near, self.slopes(series)[..., None] * turn)).logsumexp(1)

    def log_prob(self, series: Tensor) -> Tensor:
        """(P, Q) logarithm of the share of each point, normalised."""
        return torch.log_softmax((series @ self.table.to(series.dtype)).logsumexp(1), 1)

    def target(self, directions: Tensor, spread: float) -> Tensor:
        """(P, Q) shares of the points around unit vectors (P, 3): von Mises and Fisher's, `spread` in radians."""
        return torch.softmax(directions @ self.points.T.to(directions.dtype) / spread**2, 1)


@dataclass(frozen=True)
class DirectionDensity(DistanceDensity):
    """A distribution of distances to the focus times one of directions, per volume.

    Attributes:
        places: (P, 1, 3) zeros, the focus.
        series: (P, C, M) coefficients a_clm of the directions.
        sphere: Says what they mean.
    """

    series: Tensor
    sphere: Sphere

    def __getitem__(self, rows: Tensor) -> DirectionDensity:
        """Those of some molecules."""
        return DirectionDensity(self.places[rows], self.tables[rows], self.bins, self.series[rows], self.sphere)

    def at(self, points: Tensor) -> Tensor:
        """(P, G) at points (P, G, 3), Å from the focus."""
        size = max(1, CACHE // (self.series.shape[2] * points.shape[1]))
        parts = zip(torch.split(self.series, size), torch.split(points, size), strict=True)
        directions = [(a @ self.sphere.harmonics(x).transpose(1, 2)).logsumexp(1) for a, x in parts]
        return super().at(points) + torch.cat(directions) - 2 * torch.log(points.norm(dim=2).clamp(min=CORE))

    def bounds(self, centres: Tensor, half: float) -> Tensor:
        """(P, C) upper bounds among points that are no more than `half` Å from centres (C, 3)."""
        radius = centres.norm(dim=1)
        turn = torch.where(radius > half, torch.asin((half / radius).clamp(max=1)), math.pi)
        highest = self.sphere.highest(self.series, centres, turn)
        return super().bounds(centres, half) + highest - 2 * torch.log((radius - half).clamp(min=CORE))


def unit(vectors: Tensor) -> Tensor:
    """(V, 3) directions of (V, 3); zeros, also in their slopes, for those shorter than 1e-6."""
    there = (vectors**2).sum(1, keepdim=True) > 1e-12
    return normalize(torch.where(there, vectors, torch.ones_like(vectors)), dim=1) * there
