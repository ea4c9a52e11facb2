"""From the features of the atoms to the parameters of the densities."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from megen_gym.agents.covariant.canvas import Canvas
from megen_gym.agents.covariant.encoder import DegreeLinear
from megen_gym.agents.covariant.sphere import SphereGrid, degrees, harmonics, quadrature


def mlp(inputs: int, width: int, outputs: int, gain: float = 0.01) -> nn.Sequential:
    """Two layers, orthogonal as Stable-Baselines3 starts them, the last by `gain`: small where a policy begins even."""
    first, last = nn.Linear(inputs, width), nn.Linear(width, outputs)
    for layer, scale in ((first, math.sqrt(2)), (last, gain)):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.SiLU(), last)


def pool(scalars: Tensor, canvas: Canvas, bag: Tensor, scale: float) -> Tensor:
    """(B, 2 D + V) each structure as a whole: sum / scale and mean of its atoms' invariants, and the bag."""
    real = (canvas.species.flatten()[canvas.node] > 0)[:, None]
    total = scalars.new_zeros(len(canvas.mask), scalars.shape[1]).index_add(0, canvas.structure, scalars * real)
    return torch.cat([total / scale, total / canvas.n_atoms.clip(1)[:, None], bag], -1)


class DistanceHead(nn.Module):
    """Parameters of :class:`WindowedMixture` from what is known of the focus and the element.

    The Gaussians start evenly spread over the window [shortest, longest], Å, half as wide as their spacing is.
    """

    start: Tensor

    def __init__(self, inputs: int, width: int, num_gaussians: int, shortest: float, longest: float) -> None:
        super().__init__()
        self.shortest, self.window = shortest, longest - shortest
        self.net = mlp(inputs, width, 3 * num_gaussians)
        place = (torch.arange(num_gaussians) + 0.5) / num_gaussians
        self.register_buffer("start", torch.logit(place), persistent=False)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, inputs) -> logits, means (Å) and standard deviations (Å), (B, K) each."""
        logits, place, spread = self.net(context).chunk(3, -1)
        mean = self.shortest + self.window * torch.sigmoid(place + self.start)
        return logits, mean, self.window * (1 / 30 + torch.sigmoid(spread - 1))


class DirectionHead(nn.Module):
    """log q on the cells of a grid, q a series of real spherical harmonics around the focus (Simm et al., eqs. 6-8).

    The C functions x_c of the focus are gated, degree by degree, by the element and the distance, and mixed to `series`
    functions a_c. With sum_clm a_clm² = 1,
        beta is None:  q(u) = sum_c |sum_lm a_clm Y_lm(u)|²   (integrates to one)
        otherwise:     q(u) ~ exp(-beta sum_c |sum_lm a_clm Y_lm(u)|²), large with the series where beta is negative.
    The coefficients are turned into the frame of the grid first: the function is read at turned quadrature
    points and projected anew, which is the Wigner rotation without its matrices. The grid's harmonics are constant.

    Args:
        inputs: Width of the context.
        lmax, channels: As in the encoder.
        width: Of the gating network.
        series: Functions that are squared and summed.
        beta: See above.
        grid: The cells.
    """

    floor = 1e-3
    degree: Tensor
    points: Tensor
    project: Tensor
    table: Tensor

    def __init__(
        self, inputs: int, lmax: int, channels: int, width: int, series: int, beta: float | None, grid: SphereGrid
    ) -> None:
        super().__init__()
        self.lmax, self.beta = lmax, beta
        self.gate = mlp(inputs, width, (lmax + 1) * channels, gain=0.5)
        self.mix = DegreeLinear(lmax, channels, series, gain=0.1)
        self.even = nn.Parameter(torch.ones(series))
        points, weights = quadrature(2 * lmax)
        self.register_buffer("degree", degrees(lmax), persistent=False)
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("project", (harmonics(lmax, points) * weights[:, None]).T.contiguous(), persistent=False)
        self.register_buffer("table", harmonics(lmax, grid.centres), persistent=False)

    def forward(self, fields: Tensor, context: Tensor, frame: Tensor) -> Tensor:
        """fields (M, B, C), context (B, inputs), frame (B, 3, 3) -> (B, G) log q up to a constant."""
        series = self.coefficients(fields, context)
        with torch.no_grad():
            turned = harmonics(self.lmax, self.points.to(frame.dtype) @ frame.transpose(1, 2))
        local = self.project.to(frame.dtype) @ (turned @ series)
        batch, _, number = local.shape
        values = local.permute(2, 0, 1).flatten(0, 1) @ self.table.to(frame.dtype).T
        q = (values**2).view(number, batch, -1).sum(0)
        return -self.beta * q if self.beta is not None else torch.log(q + self.floor / (4 * math.pi))

    def coefficients(self, fields: Tensor, context: Tensor) -> Tensor:
        """(B, M, series) normalised a_clm in laboratory axes."""
        gates = (1 + self.gate(context)).view(len(context), self.lmax + 1, -1).transpose(0, 1)
        series: Tensor = self.mix(fields * gates[self.degree]).transpose(0, 1)
        constant = torch.zeros_like(series)
        constant[:, 0] = 1
        series = series + constant * self.even
        return series / torch.sqrt((series**2).sum((1, 2), keepdim=True) + 1e-12)
