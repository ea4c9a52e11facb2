"""Blocks that the parts of the network share."""

from __future__ import annotations

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

LOG2 = math.log(2.0)


class ShiftedSoftplus(nn.Module):
    """log(1 + e^x) - log 2."""

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return F.softplus(x) - LOG2


def linear(n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    """A linear layer with Glorot's weights and no offset to begin with."""
    layer = nn.Linear(n_in, n_out, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def perceptron(n_in: int, hidden: int, n_out: int, layers: int) -> nn.Sequential:
    """`layers` linear layers with shifted softplus between."""
    sizes = [n_in, *[hidden] * (layers - 1), n_out]
    modules: list[nn.Module] = []
    for a, b in pairwise(sizes):
        modules += [linear(a, b), ShiftedSoftplus()]
    return nn.Sequential(*modules[:-1])
