"""SchNet (Schütt et al., J. Chem. Phys. 148, 241722, 2018) on canvases that are prefixes of the same molecule.

Continuous-filter convolutions are linear in the features. The filters of each pair distance of a molecule are computed
once, and the messages on all its canvases are, channel by channel, one matrix product of features (canvases x nodes)
and filters (nodes x nodes). The result is that of the edge lists of the published code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from megen_gym.agents.gschnet.layers import ShiftedSoftplus, linear, perceptron
from megen_gym.agents.gschnet.steps import Canvas, Pairs


class Filters(nn.Module):
    """Filters of all interactions at once.

    Args:
        n_interactions: L.
        features: F.
        n_rbf: Gaussians between 0 and the cut-off.
        cutoff: Å.
        smooth: Multiply by (cos(pi d / cutoff) + 1) / 2; otherwise filters end abruptly.
    """

    centres: Tensor

    def __init__(self, n_interactions: int, features: int, n_rbf: int, cutoff: float, smooth: bool = True) -> None:
        super().__init__()
        self.cutoff, self.smooth = cutoff, smooth
        self.register_buffer("centres", torch.linspace(0.0, cutoff, n_rbf), persistent=False)
        self.width = cutoff / (n_rbf - 1)
        self.first = nn.Linear(n_rbf, n_interactions * features)
        self.second = nn.Parameter(torch.empty(n_interactions, features, features))
        self.bias = nn.Parameter(torch.zeros(n_interactions, 1, features))
        self.act = ShiftedSoftplus()
        for index in range(n_interactions):
            nn.init.xavier_uniform_(self.first.weight[index * features : (index + 1) * features])
            nn.init.xavier_uniform_(self.second[index])
        nn.init.zeros_(self.first.bias)

    def forward(self, distance: Tensor) -> Tensor:
        """(P, L, F) from (P,) Å."""
        layers, features, _ = self.second.shape
        gaussians = torch.exp(-0.5 * ((distance[:, None] - self.centres) / self.width) ** 2)
        hidden = self.act(self.first(gaussians)).view(-1, layers, features).transpose(0, 1)
        weights = torch.baddbmm(self.bias, hidden, self.second).transpose(0, 1)
        inside = distance < self.cutoff
        fade = 0.5 * (torch.cos(distance * (math.pi / self.cutoff)) + 1) if self.smooth else torch.ones_like(distance)
        return weights * (fade * inside)[:, None, None]


class SchNet(nn.Module):
    """Features of nodes and focus tokens.

    Args:
        features: F.
        n_interactions: L.
        n_rbf: Gaussians.
        cutoff: Å.
        smooth: See :class:`Filters`.
        focus_type: Atomic number that stands for the focus token.
        max_z: Rows of the embedding.
    """

    def __init__(
        self,
        features: int = 128,
        n_interactions: int = 9,
        n_rbf: int = 25,
        cutoff: float = 10.0,
        smooth: bool = True,
        focus_type: int = 122,
        max_z: int = 130,
    ) -> None:
        super().__init__()
        self.focus_type = focus_type
        self.embedding = nn.Embedding(max_z, features, padding_idx=0)
        self.filters = Filters(n_interactions, features, n_rbf, cutoff, smooth)
        self.in2f = nn.ModuleList(linear(features, features, bias=False) for _ in range(n_interactions))
        self.f2out = nn.ModuleList(perceptron(features, features, features, 2) for _ in range(n_interactions))

    def tables(self, pairs: Pairs) -> Tensor:
        """(L, B, F, K, K) filters between the nodes of each molecule; zero where there is no pair."""
        weights = self.filters(pairs.distance)
        if pairs.image is not None:
            count = int(pairs.index.max())  # that of the origin with itself, which is no pair
            weights = weights.new_zeros(count, *weights.shape[1:]).index_add(0, pairs.image, weights)
        weights = torch.cat([weights, weights.new_zeros(1, *weights.shape[1:])])
        dense = weights.flatten(1).index_select(0, pairs.index.flatten())
        return dense.view(*pairs.index.shape, *weights.shape[1:]).permute(3, 0, 4, 1, 2).contiguous()

    def at_zero(self) -> Tensor:
        """(L, F) filters between the focus token and its node."""
        filters: Tensor = self.filters(self.filters.centres.new_zeros(1))
        return filters[0]

    def forward(self, canvas: Canvas, tables: Tensor | None = None, at_zero: Tensor | None = None) -> Tensor:
        """(S + R, F) features of the focus tokens and the node rows."""
        if tables is None:
            assert canvas.pairs is not None
            tables = self.tables(canvas.pairs)
        at_zero = self.at_zero() if at_zero is None else at_zero
        n, (size, width) = canvas.n_canvases, canvas.species.shape
        row_molecule = canvas.molecule[canvas.row_canvas]
        place = (row_molecule * canvas.slots + canvas.slot[canvas.row_canvas]) * width + canvas.row_node
        kinds = torch.cat(
            [canvas.species.new_full((n,), self.focus_type), canvas.species[row_molecule, canvas.row_node]]
        )
        features: Tensor = self.embedding(kinds)
        shape, here = (size, canvas.slots, width), canvas.focus_row
        for into, out, table, zero in zip(self.in2f, self.f2out, tables.unbind(0), at_zero.unbind(0), strict=True):
            x = into(features)
            tokens, nodes = x.split([n, len(x) - n])
            dense = x.new_zeros(size * canvas.slots * width, x.shape[1])
            dense = dense.index_copy(0, place, nodes.index_add(0, here, tokens))
            messages = convolve(dense.view(*shape, -1), table).reshape(dense.shape).index_select(0, place)
            to_tokens = messages.index_select(0, here) + zero * nodes.index_select(0, here)
            to_nodes = messages.index_add(0, here, zero * tokens)
            features = features + out(torch.cat([to_tokens, to_nodes]))
        return features


def convolve(dense: Tensor, table: Tensor) -> Tensor:
    """(B, S, K, F) messages from features (B, S, K, F) and symmetric filters (B, F, K, K)."""
    size, slots, width, features = dense.shape
    channels = dense.permute(0, 3, 1, 2).reshape(size * features, slots, width)
    messages = torch.bmm(channels, table.flatten(0, 1))
    return messages.view(size, features, slots, width).permute(0, 2, 3, 1)
