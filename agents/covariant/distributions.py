"""The densities that an action is drawn from, one small class each, and the one function that draws or scores."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.special import ndtri

from megen_gym.agents.covariant.sphere import SphereGrid

NEVER = -1.0e4
"""Added to the logit of what a mask excludes: below any float32 probability, yet finite if all is excluded."""


class Distribution(Protocol):
    """B independent densities over values of one kind."""

    def sample(self) -> Tensor:
        """Draw one value each."""

    def mode(self) -> Tensor:
        """The likeliest value, on the grid that the class uses."""

    def log_prob(self, value: Tensor) -> Tensor:
        """(B,) nats."""

    def entropy(self) -> Tensor:
        """(B,) nats."""


def draw(log_p: Tensor) -> Tensor:
    """(B,) indices by their log-probabilities (B, M); five times as fast as torch.multinomial for M of a thousand."""
    cumulative = log_p.double().exp().cumsum(-1)
    target = cumulative[:, -1:] * torch.rand(len(log_p), 1, dtype=torch.float64, device=log_p.device)
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clip(max=log_p.shape[-1] - 1)


def settle(density: Distribution, given: Tensor | None, deterministic: bool) -> Tensor:
    """The value `given`, or else the mode or a sample: drawing and scoring differ nowhere but here."""
    if given is not None:
        return given
    with torch.no_grad():
        return density.mode() if deterministic else density.sample()


class MaskedCategorical:
    """Choice of one of M with logits (B, M), of which only those with a positive `weight` (B, M) can be drawn.

    The weights multiply the probabilities: p_i = w_i exp(logit_i) / sum_j w_j exp(logit_j).
    """

    def __init__(self, logits: Tensor, weight: Tensor) -> None:
        weight = torch.where(weight > 0, weight.clip(1e-30).log(), NEVER)
        self.log_p = torch.log_softmax(logits + weight, -1)

    def sample(self) -> Tensor:
        return draw(self.log_p)

    def mode(self) -> Tensor:
        return self.log_p.argmax(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.log_p.gather(-1, value[:, None])[:, 0]

    def entropy(self) -> Tensor:
        return -(self.log_p.exp() * self.log_p).sum(-1)


class WindowedMixture:
    """Gaussians truncated to a window that is cut into bins, each with a weight of its own.

    p(d) = (1 / Z) m_b(d) sum_k pi_k N(d; mu_k, sigma_k) / Z_k,   Z = sum_kb pi_k m_b D_kb / Z_k,
    with D_kb the mass of Gaussian k in bin b and Z_k its mass in the window. Samples are exact: a pair (k, b) by its
    mass, then the inverse cumulative function within the bin. All in float64, with tails mirrored to the side where
    they are small numbers instead of differences of numbers near one.

    Args:
        logits: (B, K) of the pi_k.
        mean: (B, K) Å.
        std: (B, K) Å; at least a thirtieth of the window, for the tails.
        edges: (n + 1,) Å, ascending.
        weight: (B, n) positive m_b.
    """

    def __init__(self, logits: Tensor, mean: Tensor, std: Tensor, edges: Tensor, weight: Tensor) -> None:
        self.dtype = logits.dtype
        self.mean, self.std = mean.double(), std.double()
        self.edges = edges.double()
        z = (self.edges - self.mean[..., None]) / self.std[..., None]
        self.low, self.high, self.mirrored = self._near_tail(z[..., :-1], z[..., 1:])
        mass = self.high - self.low
        share = torch.log_softmax(logits.double(), -1) - mass.sum(-1).log()
        self.log_weight = weight.double().log()
        table = share[..., None] + mass.log() + self.log_weight[:, None]
        self.log_z = torch.logsumexp(table.flatten(1), -1)
        self.table = table - self.log_z[:, None, None]
        self.share = share

    @staticmethod
    def _near_tail(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cumulative values at both ends, taken from the tail nearer to the interval."""
        mirrored = low + high > 0
        start, end = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
        # torch.special.ndtr is zero below -9.
        return torch.erfc(-start / math.sqrt(2)) / 2, torch.erfc(-end / math.sqrt(2)) / 2, mirrored

    def _bin(self, value: Tensor) -> Tensor:
        return torch.bucketize(value.contiguous(), self.edges[1:-1], right=True)

    def _log_p(self, value: Tensor) -> Tensor:
        """(B, P) nats at (B, P) Å."""
        z = (value[:, None] - self.mean[..., None]) / self.std[..., None]
        normal = -0.5 * z**2 - self.std.log()[..., None] - 0.5 * math.log(2 * math.pi)
        weight = self.log_weight.gather(-1, self._bin(value))
        return torch.logsumexp(self.share[..., None] + normal, 1) + weight - self.log_z[:, None]

    def _nodes(self) -> tuple[Tensor, float]:
        """(1, P) midpoints of eight equal steps a bin, and the step, Å."""
        part = (torch.arange(8, dtype=torch.float64, device=self.edges.device) + 0.5) / 8
        nodes = self.edges[:-1, None] + part * (self.edges[1:] - self.edges[:-1])[:, None]
        return nodes.view(1, -1), float(self.edges[1] - self.edges[0]) / 8

    def sample(self) -> Tensor:
        batch, _, bins = self.table.shape
        pick = draw(self.table.flatten(1))[:, None]
        low, high = self.low.flatten(1).gather(1, pick), self.high.flatten(1).gather(1, pick)
        z = ndtri(low + torch.rand_like(low) * (high - low))
        z = torch.where(self.mirrored.flatten(1).gather(1, pick), -z, z)
        k, b = pick // bins, (pick % bins)[:, 0]
        value = (self.mean.gather(1, k) + z * self.std.gather(1, k)).view(batch)
        inset = 1e-4 * (self.edges[1] - self.edges[0])
        return value.clip(self.edges[b] + inset, self.edges[b + 1] - inset).to(self.dtype)

    def mode(self) -> Tensor:
        nodes, _ = self._nodes()
        return nodes[0, self._log_p(nodes.expand(len(self.mean), -1)).argmax(-1)].to(self.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        return self._log_p(value.double()[:, None])[:, 0].to(self.dtype)

    def entropy(self) -> Tensor:
        """By the midpoint rule, eight points a bin: rough where the density is a spike narrower than that."""
        nodes, step = self._nodes()
        log_p = self._log_p(nodes.expand(len(self.mean), -1))
        p = log_p.exp() * step
        return (-(p * log_p).sum(-1) / p.sum(-1)).to(self.dtype)


class SphereDensity:
    """A direction: one of the G cells of a grid that turns with the focus, then a sub-cell, then uniform in that.

    p(u) = p(cell) p(sub-cell | cell) refine² G / (4 pi): constant on sub-cells, hence normalised, and drawn and scored
    exactly.

    Args:
        logits: (B, G), log of q w at the centre of each cell.
        grid: The grid.
        sub_logits: (B,) cells -> (B, refine²) log w of the sub-cells, in which the network has no say.
        frame: (B, 3, 3), columns are the axes of the grid.
    """

    def __init__(self, logits: Tensor, grid: SphereGrid, sub_logits: SubLogits, frame: Tensor) -> None:
        self.log_p = torch.log_softmax(logits, -1)
        self.grid = grid
        self.sub_logits = sub_logits
        self.frame = frame

    def _to_lab(self, local: Tensor) -> Tensor:
        return (self.frame @ local[..., None].to(self.frame.dtype))[..., 0]

    def sample(self) -> Tensor:
        cell = draw(self.log_p)
        sub = draw(torch.log_softmax(self.sub_logits(cell), -1))
        shift = 0.998 * (2 * torch.rand(len(cell), 2, device=cell.device) - 1)
        return self._to_lab(self.grid.inside(cell, sub, shift))

    def mode(self) -> Tensor:
        cell = self.log_p.argmax(-1)
        sub = self.sub_logits(cell).argmax(-1)
        return self._to_lab(self.grid.inside(cell, sub, torch.zeros(len(cell), 2, device=cell.device)))

    def log_prob(self, value: Tensor) -> Tensor:
        cell, sub = self.grid.locate((value[:, None] @ self.frame)[:, 0])
        inner = torch.log_softmax(self.sub_logits(cell), -1).gather(-1, sub[:, None])[:, 0]
        density = math.log(self.grid.refine**2 / self.grid.area)
        return self.log_p.gather(-1, cell[:, None])[:, 0] + inner + density

    def entropy(self) -> Tensor:
        """Of the density before the cells are refined, which is the part that the network can change."""
        return -(self.log_p.exp() * self.log_p).sum(-1) + math.log(self.grid.area)


class SubLogits(Protocol):
    """log w (B, refine²) of the sub-cells of the cells (B,)."""

    def __call__(self, cell: Tensor) -> Tensor: ...
