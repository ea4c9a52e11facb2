"""Compositions as distributions: a graph network over the elements, with a mean and a variance (PolySRL)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from megen_gym.agents.nn.options import check_bounds
from megen_gym.agents.polysrl.elements import TABLES, network_features
from megen_gym.errors import InputError, nearest

GRAPHS = ("GCN", "GAT", "GIN")

SIGMA = 0.4
"""Distance of samples from their mean that training begins with. As published it is sqrt(hidden_dim), an order of
magnitude more than the distance between any two structures, and the loss is flat."""


class Distribution(NamedTuple):
    """What a composition is in the space of embeddings.

    Attributes:
        mean: (B, H) of length one.
        log_std: (B, H) logarithm of the standard deviation along each axis.
    """

    mean: Tensor
    log_std: Tensor


@dataclass(frozen=True)
class Shape:
    """Of a composition network.

    Attributes:
        element_features: Table of element features.
        sto_gnns: Layers on the graph of elements.
        sto_layers: How many.
        hidden_dim: Width of all layers and of the embedding.
        weighting: Whether an element counts by its share of the atoms, or, as published, by the number of its atoms
            in the formula.

    Raises:
        InputError: for a value out of range.
    """

    element_features: str = "matscholar"
    sto_gnns: str = "GCN"
    sto_layers: int = 3
    hidden_dim: int = 200
    weighting: Literal["fractions", "counts"] = "fractions"

    def __post_init__(self) -> None:
        for name, known in (
            ("element_features", TABLES), ("sto_gnns", GRAPHS), ("weighting", ("fractions", "counts")),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; {nearest(str(getattr(self, name)), known)}")
        check_bounds(self, {1: "sto_layers hidden_dim"})


class ElementGraph(nn.Module):
    """A layer on the fully connected graph of a composition's elements, loops included: (B, E, in) -> (B, E, out).

    ``GCN``  W sum_j w_j x_j + b (Kipf, Welling 2017): on this graph, the same for all nodes;
    ``GAT``  sum_j a_ij W x_j + b, a_ij ~ w_j exp(LeakyReLU(s_i + t_j)) (Veličković et al. 2018);
    ``GIN``  MLP(x_i + n sum_j w_j x_j) (Xu et al. 2019).

    w_j are shares of the atoms, so that an element of vanishing share has no say, or 1/n each for n elements as
    published; n = 1 / sum_j w_j², which is their number where shares are equal.
    """

    def __init__(self, kind: str, size_in: int, size: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "GIN":
            self.mlp = nn.Sequential(nn.Linear(size_in, size), nn.ReLU(), nn.Linear(size, size))
            return
        self.linear = nn.Linear(size_in, size, bias=False)
        self.bias = nn.Parameter(torch.zeros(size))
        nn.init.xavier_uniform_(self.linear.weight)
        if kind == "GAT":
            self.here, self.there = nn.Linear(size, 1, bias=False), nn.Linear(size, 1, bias=False)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """`weight` (B, E, E), or (B, 1, E) where all nodes hear the same; its rows sum to 1 and are 0 for padding."""
        if self.kind == "GCN":
            mixed: Tensor = self.linear(weight @ x) + self.bias
            return mixed
        if self.kind == "GIN":
            number = 1 / (weight**2).sum(-1, keepdim=True).clamp_min(1e-12)
            sent: Tensor = self.mlp(x + number * (weight @ x))
            return sent
        x = self.linear(x)
        score = functional.leaky_relu(self.here(x) + self.there(x).transpose(1, 2), 0.2)
        return share(score, weight) @ x + self.bias


def share(score: Tensor, weight: Tensor) -> Tensor:
    """Softmax over the last axis with a weight for each entry; entries of weight 0 get nothing."""
    return torch.softmax(score + torch.log(weight.clamp_min(1e-30)), -1) * (weight > 0)


class Set2Set(nn.Module):
    """An order-free summary of a set in two reads (Vinyals et al., arXiv 1511.06391): (B, E, H) -> (B, 2 H).

    The first read begins from zeros, so that its query, and all of the second one's but what was read, are the same
    for every set and cost nothing.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(2 * size, size)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """`weight` (B, E): how much each entry counts; 0 for padding."""
        lstm = self.lstm
        gates = lstm.bias_ih + lstm.bias_hh
        query, cell = self._step(gates, torch.zeros_like(gates[: len(gates) // 4]))
        read = torch.einsum("be,bef->bf", share(x @ query, weight), x)
        size = len(query)
        gates = gates + lstm.weight_hh @ query + lstm.weight_ih[:, :size] @ query
        query, _ = self._step(gates + read @ lstm.weight_ih[:, size:].T, cell)
        read = torch.einsum("be,bef->bf", share(torch.einsum("bef,bf->be", x, query), weight), x)
        return torch.cat([query, read], -1)

    @staticmethod
    def _step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        enter, forget, new, out = gates.chunk(4, -1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
        return torch.sigmoid(out) * torch.tanh(cell), cell


class CompositionNetwork(nn.Module):
    """A composition as a Gaussian with a diagonal covariance (Park et al., NeurIPS AI4Science 2023, eqs. 2 and 3).

    h_0 = features;  h_k+1 = ELU(layer(h_k)) + h_k;  x = W [h_0 ... h_K];
    mean = normalise(V Set2Set(x) + sum w x),  log std = V' Set2Set'(x) + sum w x.

    Elements come in any order. With shares of the atoms as weights the distribution belongs to the composition:
    BaTiO3 and Ba2Ti2O6 have one and the same, and it is continuous where an element vanishes.
    """

    table: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        features = torch.from_numpy(network_features(shape.element_features)).float()
        self.register_buffer("table", features)
        size = shape.hidden_dim
        self.enter = nn.Linear(features.shape[1], size) if features.shape[1] != size else nn.Identity()
        self.layers = nn.ModuleList(ElementGraph(shape.sto_gnns, size, size) for _ in range(shape.sto_layers))
        self.join = nn.Linear((shape.sto_layers + 1) * size, size)
        self.mean_set, self.mean_out = Set2Set(size), nn.Linear(2 * size, size)
        self.std_set, self.std_out = Set2Set(size), nn.Linear(2 * size, size)
        if shape.weighting == "fractions":
            nn.init.constant_(self.std_out.bias, math.log(SIGMA / math.sqrt(size)))

    def elements(self, numbers: Tensor, weight: Tensor) -> Tensor:
        """(B, E, H) what each element is within its composition; `weight` as in :class:`ElementGraph`."""
        h: Tensor = self.enter(self.table[numbers])
        found = [h]
        for layer in self.layers:
            h = functional.elu(layer(h, weight)) + h
            found.append(h)
        joined: Tensor = self.join(torch.cat(found, -1))
        return joined

    def forward(self, numbers: Tensor, amounts: Tensor, edges: Tensor | None = None) -> Distribution:
        """Of compositions with atomic numbers (B, E), 0 for padding, and amounts (B, E) in any unit.

        Args:
            numbers, amounts: See above.
            edges: (B, E, E) 1 for the edges of the graph that are there, 0 for others; all by default.
        """
        x, seen, total = self._pooled(numbers, amounts, edges)
        mean = self.mean_out(self.mean_set(x, seen)) + total
        log_std = self.std_out(self.std_set(x, seen)) + total
        return Distribution(functional.normalize(mean, dim=-1), log_std)

    def summary(self, numbers: Tensor, amounts: Tensor) -> Tensor:
        """(B, H) the mean before it is normalised."""
        x, seen, total = self._pooled(numbers, amounts, None)
        found: Tensor = self.mean_out(self.mean_set(x, seen)) + total
        return found

    def _pooled(self, numbers: Tensor, amounts: Tensor, edges: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, E, H) elements, (B, E) how much each counts in a set, (B, H) their sum."""
        there = (amounts > 0).to(self.table.dtype)
        fractions = self.shape.weighting == "fractions"
        seen = amounts / amounts.sum(1, keepdim=True) if fractions else there
        weight = (seen / seen.sum(1, keepdim=True))[:, None]
        if edges is not None:
            weight = weight * edges
            weight = weight / weight.sum(-1, keepdim=True).clamp_min(1e-12)
        x = self.elements(numbers, weight)
        if fractions:
            return x, seen, torch.einsum("be,bef->bf", seen, x)
        x = x * amounts[..., None]
        return x, seen, x.sum(1)
