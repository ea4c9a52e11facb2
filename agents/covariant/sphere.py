"""Functions on the unit sphere: real spherical harmonics, exact quadrature, and a grid of cells of equal area."""

from __future__ import annotations

import math

import numpy as np
import torch
from e3nn import o3
from torch import Tensor, nn

from megen_gym.errors import InputError


def harmonics(lmax: int, vectors: Tensor) -> Tensor:
    """Orthonormal real spherical harmonics Y_lm, l = 0 .. lmax, of the directions of `vectors` (..., 3).

    Returns:
        (..., (lmax + 1)²), ordered by l and then m; zero for l > 0 where the vector is zero.
    """
    values: Tensor = o3.spherical_harmonics(list(range(lmax + 1)), vectors, normalize=True, normalization="integral")
    return values


def degrees(lmax: int) -> Tensor:
    """((lmax + 1)²,) the l of each component of :func:`harmonics`."""
    return torch.repeat_interleave(torch.arange(lmax + 1), 2 * torch.arange(lmax + 1) + 1)


def quadrature(degree: int) -> tuple[Tensor, Tensor]:
    """Points (Q, 3) and weights (Q,) that integrate every polynomial up to `degree` over the sphere exactly.

    Gauss-Legendre nodes in z times equal steps in phi; float64.
    """
    z, weight = np.polynomial.legendre.leggauss(degree // 2 + 1)
    phi = 2 * np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1)
    radius = np.sqrt(1 - z**2)[:, None]
    points = np.stack([radius * np.cos(phi), radius * np.sin(phi), np.broadcast_to(z[:, None], (len(z), len(phi)))], -1)
    weights = np.repeat(weight * 2 * np.pi / (degree + 1), degree + 1)
    return torch.from_numpy(points.reshape(-1, 3)), torch.from_numpy(weights)


class SphereGrid(nn.Module):
    """Igloo grid: bands in z, each cut into equal steps of phi, the bands as high as makes all cells equal in area.

    By Archimedes' theorem a band's area is proportional to its height in z, so that a band of n of the G cells
    has height 2 n / G, every cell has the solid angle 4 pi / G, and uniform z and phi are uniform on the sphere.
    Each cell is cut again into `refine` x `refine` parts of equal area, the *sub-cells*.

    Args:
        cells: About how many cells; `size` is the number made.
        refine: Sub-cells along each side of a cell.

    Attributes:
        centres: (G, 3) unit vectors.
        area: Steradian of one cell.
    """

    centres: Tensor
    top: Tensor
    count: Tensor
    first: Tensor
    band: Tensor
    part: Tensor

    def __init__(self, cells: int, refine: int = 1) -> None:
        super().__init__()
        if cells < 8 or refine < 1:
            raise InputError(f"{cells} cells with refine {refine} are too few; give cells >= 8 and refine >= 1")
        bands = max(2, round(math.sqrt(math.pi * cells) / 2))
        theta = math.pi * (np.arange(bands) + 0.5) / bands
        count = np.maximum(3, np.round(cells * np.sin(theta) / np.sin(theta).sum())).astype(int)
        first = np.concatenate([[0], np.cumsum(count)])
        self.refine = refine
        self.size = int(first[-1])
        self.area = 4 * math.pi / self.size
        self.register_buffer("top", torch.from_numpy(1 - 2 * first / self.size), persistent=False)
        self.register_buffer("count", torch.from_numpy(count), persistent=False)
        self.register_buffer("first", torch.from_numpy(first), persistent=False)
        self.register_buffer("band", torch.from_numpy(np.repeat(np.arange(bands), count)), persistent=False)
        half = torch.tensor(0.5)
        self.register_buffer("centres", self.point(torch.arange(self.size), half, half), persistent=False)
        steps = (torch.arange(refine, dtype=torch.float64) + 0.5) / refine
        self.register_buffer("part", torch.cartesian_prod(steps, steps).view(-1, 2), persistent=False)

    def point(self, cell: Tensor, down: Tensor, around: Tensor) -> Tensor:
        """Unit vectors (..., 3) at the fractions `down` (in z) and `around` (in phi), both 0 .. 1, of the cells."""
        band = self.band[cell]
        z = self.top[band] + down * (self.top[band + 1] - self.top[band])
        phi = 2 * math.pi * (cell - self.first[band] + around) / self.count[band]
        radius = torch.sqrt((1 - z**2).clip(0))
        return torch.stack([radius * torch.cos(phi), radius * torch.sin(phi), z], -1)

    def locate(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Cell (...) and sub-cell (...) that the unit vectors `directions` (..., 3) fall in."""
        directions = directions.double()
        z = directions[..., 2].contiguous()
        band = (torch.searchsorted(-self.top, -z, right=True) - 1).clip(0, len(self.count) - 1)
        down = ((self.top[band] - z) / (self.top[band] - self.top[band + 1])).clip(0, 1 - 1e-6)
        turn = torch.atan2(directions[..., 1], directions[..., 0]) / (2 * math.pi)
        around = (turn - torch.floor(turn)).clip(0, 1 - 1e-7) * self.count[band]
        step = torch.floor(around)
        sub = torch.floor(down * self.refine) * self.refine + torch.floor((around - step) * self.refine)
        return self.first[band] + step.long(), sub.long()

    def parts(self, cell: Tensor) -> Tensor:
        """Centres (..., refine², 3) of the sub-cells of `cell` (...)."""
        return self.point(cell[..., None], self.part[:, 0], self.part[:, 1])

    def inside(self, cell: Tensor, sub: Tensor, shift: Tensor) -> Tensor:
        """Unit vectors (..., 3) at `shift` (..., 2), -1 .. 1 from the centre to the edges of the sub-cells `sub`."""
        fraction = self.part[sub] + shift / (2 * self.refine)
        return self.point(cell, fraction[..., 0], fraction[..., 1])
