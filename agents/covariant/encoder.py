"""Rotation-equivariant features of every atom, cheap enough for one CPU core."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from megen_gym.agents.covariant.canvas import Canvas, dot
from megen_gym.agents.covariant.sphere import degrees, harmonics, quadrature


class Features(NamedTuple):
    """What the encoder says about the A nodes.

    Attributes:
        fields: ((lmax + 1)², A, C) coefficients of C functions on the sphere around each node.
        scalars: (A, D) invariants.
    """

    fields: Tensor
    scalars: Tensor


def bessel(distance: Tensor, count: int, cutoff: float) -> Tensor:
    """(..., count) radial basis sin(n pi r / rc) / r under a polynomial cut-off that is smooth to second order.

    Source: Gasteiger et al., ICLR 2020 (DimeNet), eqs. 7 and 8 with p = 6. `distance` must be positive.
    """
    x = (distance / cutoff).clip(max=1)[..., None]
    order = torch.arange(1, count + 1, dtype=distance.dtype, device=distance.device)
    envelope = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
    return math.sqrt(2) * torch.sin(math.pi * order * x) / x * envelope


class DegreeLinear(nn.Module):
    """A linear map of the channels for every degree l, with a bias for l = 0 only where `bias` is set.

    (M, A, in) -> (M, A, out), M = (lmax + 1)²; as e3nn's o3.Linear, in the layout that makes it one batched product.
    """

    degree: Tensor

    def __init__(self, lmax: int, channels_in: int, channels_out: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(gain / math.sqrt(channels_in) * torch.randn(lmax + 1, channels_in, channels_out))
        self.register_buffer("degree", degrees(lmax), persistent=False)

    def forward(self, fields: Tensor) -> Tensor:
        return torch.bmm(fields, self.weight[self.degree])


class Gaunt(nn.Module):
    """Products of functions on the sphere, as polynomials of their values at points: [f g, f² g].

    f and g are linear maps of the input to half its channels each. In coefficients the products are the couplings of
    three and four bodies (ACE: Drautz, Phys. Rev. B 99, 014104) by Gaunt instead of Clebsch-Gordan numbers (Luo, Chen,
    Krishnapriyan, ICLR 2024), one matrix product each way. The quadrature is exact up to degree 4 lmax, so that the
    result is equivariant to rounding.
    """

    to_points: Tensor
    from_points: Tensor

    def __init__(self, lmax: int, channels: int) -> None:
        super().__init__()
        points, weights = quadrature(4 * lmax)
        values = harmonics(lmax, points)
        scale = math.sqrt(4 * math.pi)
        self.register_buffer("to_points", values * scale, persistent=False)
        self.register_buffer("from_points", (values * weights[:, None] / scale).T.contiguous(), persistent=False)
        products = max(1, channels // 2)
        self.spread = DegreeLinear(lmax, channels, 2 * products)
        self.gather = DegreeLinear(lmax, 2 * products, channels)

    def forward(self, fields: Tensor) -> Tensor:
        m, nodes, _ = fields.shape
        to_points, from_points = self.to_points.to(fields.dtype), self.from_points.to(fields.dtype)
        values = (to_points @ self.spread(fields).view(m, -1)).view(len(to_points), nodes, -1)
        f, g = values.chunk(2, -1)
        product = f * g
        both = torch.cat([product, product * f], -1)
        coefficients: Tensor = self.gather((from_points @ both.view(len(both), -1)).view(m, nodes, -1))
        return coefficients


class Layer(nn.Module):
    """One interaction: a density of neighbours, bounded, multiplied with itself, and read into the invariants.

    x' = x + W a + Gaunt(a),  a = W rho / sqrt(1 + <(W rho)²>);  s' = s + MLP(s, x'_00, sum_m x'_lm²).
    """

    def __init__(self, lmax: int, channels_in: int, channels: int, width: int) -> None:
        super().__init__()
        self.mix = DegreeLinear(lmax, channels_in, channels)
        self.keep = DegreeLinear(lmax, channels, channels)
        self.gaunt = Gaunt(lmax, channels)
        self.read = nn.Sequential(
            nn.Linear(width + (lmax + 2) * channels, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.starts = [degree**2 for degree in range(lmax + 2)]

    def invariants(self, fields: Tensor) -> Tensor:
        """(A, (lmax + 2) C): the l = 0 coefficients and, for every l, log(1 + sum_m x_lm²)."""
        square = fields**2
        power = [square[a:b].sum(0) for a, b in zip(self.starts[:-1], self.starts[1:], strict=True)]
        return torch.cat([fields[0], torch.log1p(torch.cat(power, -1))], -1)

    def forward(self, fields: Tensor | None, density: Tensor, scalars: Tensor) -> Features:
        density = self.mix(density)
        density = density / torch.sqrt(1 + (density**2).mean(0).mean(-1)[:, None])
        update = self.keep(density) + self.gaunt(density)
        fields = update if fields is None else fields + update
        scalars = scalars + self.read(torch.cat([scalars, self.invariants(fields)], -1))
        return Features(fields, scalars)


class Encoder(nn.Module):
    """Density projections and their products around every node, `layers` times.

    The first density counts neighbours by species s in the radial basis n,
    rho_nslm = sum_j B_n(r_ij) Y_lm(r_ij) [s_j = s],
    which holds no parameter and needs no gradient; later ones weigh the neighbours by what was learned about them,
    rho_clm = sum_j (W B)_c(r_ij) Y_lm(r_ij) h_jc. Features keep the natural parity (-1)^l: equivariant under O(3).

    Args:
        symbols: Number of symbols, X included, or of the features that stand for a symbol, of which the first is X's.
        lmax, channels, layers, width: Largest degree, functions a node, interactions, number of invariants.
        cutoff: Å.
        num_radial: Radial functions.
        bag: Width of the summary of the bag; by default two numbers a symbol.
    """

    def __init__(
        self,
        symbols: int,
        lmax: int = 3,
        channels: int = 16,
        layers: int = 2,
        width: int = 64,
        cutoff: float = 6.0,
        num_radial: int = 8,
        bag: int | None = None,
    ) -> None:
        super().__init__()
        self.symbols, self.lmax, self.cutoff, self.num_radial = symbols, lmax, cutoff, num_radial
        self.channels, self.width = channels, width
        self.embed = nn.Linear(symbols + (2 * symbols if bag is None else bag), width)
        sizes = [(symbols - 1) * num_radial] + [channels] * (layers - 1)
        self.layers = nn.ModuleList(Layer(lmax, size, channels, width) for size in sizes)
        self.radial = nn.ModuleList(nn.Linear(num_radial, channels, bias=False) for _ in sizes[1:])
        self.send = nn.ModuleList(nn.Linear(width, channels) for _ in sizes[1:])

    def forward(self, canvas: Canvas, bag: Tensor, kinds: Tensor | None = None) -> Features:
        """Features of the nodes; `bag` (B, 2 S) holds numbers and fractions of what is left, of order one.

        Other features than the symbols themselves are given as `kinds` (S, F), and another summary as `bag`.
        """
        with torch.no_grad():
            basis, angular = self._edges(canvas)
            if kinds is None:
                kinds = torch.eye(self.symbols, dtype=basis.dtype, device=basis.device)
            species = kinds[canvas.species]
            counted = basis[..., None] * species[canvas.structure][:, :, None, 1:]
            density = torch.bmm(angular.transpose(1, 2), counted.flatten(2)).transpose(0, 1) / 2
        own = species.flatten(0, 1)[canvas.node]
        scalars = self.embed(torch.cat([own, bag[canvas.structure]], -1))
        fields: Tensor | None = None
        for number, layer in enumerate(self.layers):
            if number:
                sent = scalars.new_zeros(canvas.mask.numel(), self.channels)
                sent = sent.index_copy(0, canvas.node, self.send[number - 1](scalars))
                sent = sent.view(*canvas.mask.shape, -1)[canvas.structure]
                weighted = self.radial[number - 1](basis) * sent
                density = torch.bmm(angular.transpose(1, 2), weighted).transpose(0, 1)
            fields, scalars = layer(fields, density, scalars)
        assert fields is not None
        return Features(fields, scalars)

    def _edges(self, canvas: Canvas) -> tuple[Tensor, Tensor]:
        """Radial basis (A, N, num_radial), zero beyond the cut-off, and harmonics (A, N, (lmax + 1)²)."""
        square = dot(canvas.vectors, canvas.vectors)
        near = canvas.others & (square < self.cutoff**2) & (square > 1e-12)
        distance = torch.sqrt(torch.where(near, square, 1))
        basis = bessel(distance, self.num_radial, self.cutoff) * near[..., None]
        angular = harmonics(self.lmax, canvas.vectors) * math.sqrt(4 * math.pi)
        return basis, angular
