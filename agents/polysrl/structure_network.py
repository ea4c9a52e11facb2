"""Crystals as points in the space of the compositions' embeddings: message passing over nearest neighbours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from megen_gym.agents.polysrl.elements import network_features
from megen_gym.agents.polysrl.graphs import RADIUS, Graphs

GAUSSIANS = 41
"""Centres of the functions of the distance, from 0 to 8 Å in steps of 0.2 Å; their variance is 0.02 Å²."""


class GraphBatch(NamedTuple):
    """The tensors of :class:`.graphs.Graphs`, with nodes counted through the whole batch of S crystals."""

    numbers: Tensor
    share: Tensor
    structure: Tensor
    centre: Tensor
    other: Tensor
    distance: Tensor
    times: Tensor
    size: int

    @classmethod
    def of(cls, graphs: Graphs, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> GraphBatch:
        """Of all crystals."""
        first = graphs.offset
        whole = [graphs.numbers, graphs.structure, graphs.centre + first, graphs.other + first]
        real = [graphs.share, graphs.distance, graphs.count]
        numbers, structure, centre, other = (torch.from_numpy(each).to(device) for each in whole)
        share, distance, count = (torch.from_numpy(np.asarray(each)).to(device, dtype) for each in real)
        return cls(numbers, share, structure, centre, other, distance, count, len(graphs))


def _head(size_in: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size_in, size), nn.PReLU(), nn.Linear(size, size))


class Block(nn.Module):
    """New edges and nodes: e' = f(x_i, x_j, e), x' = g(x_i, sum_j e'_ij), both added to the old ones.

    f and g are Linear - LayerNorm - PReLU - Linear of twice the width. The first layer of f acts on nodes before they
    meet in edges, which is the same and cheaper.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        wide = 2 * size
        self.here, self.there = nn.Linear(size, wide, bias=False), nn.Linear(size, wide, bias=False)
        self.edge = nn.Linear(size, wide)
        self.edge_out = nn.Sequential(nn.LayerNorm(wide), nn.PReLU(), nn.Linear(wide, size))
        self.node = nn.Sequential(nn.Linear(wide, wide), nn.LayerNorm(wide), nn.PReLU(), nn.Linear(wide, size))
        for layer in (self.here, self.there, self.edge):
            bound = (3 * size) ** -0.5
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: Tensor, e: Tensor, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Nodes (V, H) and edges (W, H)."""
        mixed = self.edge(e) + self.here(x)[batch.centre] + self.there(x)[batch.other]
        new: Tensor = self.edge_out(mixed)
        summed = torch.zeros_like(x).index_add(0, batch.centre, new * batch.times[:, None])
        return x + self.node(torch.cat([x, summed], -1)), e + new


class StructureNetwork(nn.Module):
    """The structural graph encoder of PolySRL: an embedding of length one for each crystal.

    Without element features all atoms begin alike, so that only distances count. Turning, shifting, renumbering or
    repeating a crystal changes nothing.

    Args:
        hidden_dim: Width.
        str_layers: Blocks of message passing.
        element_features: Table of element features, or None.
    """

    centres: Tensor

    def __init__(self, hidden_dim: int = 200, str_layers: int = 3, element_features: str | None = None) -> None:
        super().__init__()
        self.element_features = element_features
        size = hidden_dim
        if element_features is None:
            self.node_embedding = nn.Parameter(torch.rand(size))
        else:
            features = torch.from_numpy(network_features(element_features)).float()
            self.register_buffer("table", features)
            self.enter = nn.Linear(features.shape[1], size)
        self.node_encoder, self.edge_encoder = _head(size, size), _head(GAUSSIANS, size)
        self.blocks = nn.ModuleList(Block(size) for _ in range(str_layers))
        self.register_buffer("centres", torch.linspace(0, RADIUS, GAUSSIANS), persistent=False)

    def forward(self, batch: GraphBatch) -> Tensor:
        """(S, H)."""
        if self.element_features is None:
            x = self.node_encoder(self.node_embedding)[None].expand(len(batch.numbers), -1)
        else:
            table: Tensor = self.table  # type: ignore[assignment]
            x = self.node_encoder(self.enter(table[batch.numbers]))
        step = RADIUS / (GAUSSIANS - 1)
        e = self.edge_encoder(torch.exp(-(((batch.distance[:, None] - self.centres.to(x.dtype)) / step) ** 2)))
        for block in self.blocks:
            x, e = block(x, e, batch)
        pooled = x.new_zeros(batch.size, x.shape[1]).index_add(0, batch.structure, x * batch.share[:, None])
        return functional.normalize(pooled, dim=-1)
