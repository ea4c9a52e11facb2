"""The topological atomic descriptor: how many atoms stand in three spheres, and who belongs to which shell.

DART describes an atom by three neighbour counts and never by a distance (Modee et al., Phys. Chem. Chem. Phys. 23,
21995 (2021), doi 10.1039/d1cp02956h). Atoms interact by shells: every neighbour hands its own counts to one of three
networks, chosen by its distance.

========  =====================  ==========================================================
count     atoms at distance d     note
========  =====================  ==========================================================
``c1``    d < 3.49 Å              counts the atom itself
``c2``    3.49 Å <= d < 6.3 Å
``c3``    6.3 Å <= d < 15 Å
========  =====================  ==========================================================

========  ======  =======================  ================================================
shell     code    neighbours at distance   note
========  ======  =======================  ================================================
self      0       the atom itself
j         1       0.5 Å < d < 3.49 Å       closer atoms count in ``c1`` but are in no shell
k         2       3.49 Å <= d < 6.3 Å
l         3       d >= 6.3 Å               without an upper cut-off
none      4       d <= 0.5 Å, no atom
========  ======  =======================  ================================================
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CUTOFFS = (3.49, 6.3, 15.0)
"""Å; strict upper limits of the three counts."""

CLOSEST = 0.5
"""Å; a neighbour at this distance or closer belongs to no shell."""

SHELLS = 4
"""Number of shell codes that have a network: self, j, k, l. The code 4 stands for no neighbour."""

_BITS = 20  # of one count in the packed code of a triple


class Topology(NamedTuple):
    """Counts and shells of a batch of `B` structures of up to `N` atoms.

    Attributes:
        counts: (B, N, 3) int64, c1, c2, c3; zero where there is no atom.
        shell: (B, N, N) int32, code of atom j as seen from atom i.
    """

    counts: Tensor
    shell: Tensor


def distances(positions: Tensor, mask: Tensor) -> Tensor:
    """(B, N, N) float64 Å between all atoms; 0 on the diagonal, infinite where one of the two is missing.

    The cut-offs are strict, so that distances are always computed in float64 and as differences, whatever the dtype
    of the network.

    Args:
        positions: (B, N, 3) Å.
        mask: (B, N) true where there is an atom.
    """
    x, y, z = positions.double().unbind(-1)
    dx, dy, dz = (axis[:, :, None] - axis[:, None] for axis in (x, y, z))
    pairs = (dx * dx + dy * dy + dz * dz).sqrt_()
    if not bool(mask.all()):
        pairs.masked_fill_(~(mask[:, :, None] & mask[:, None]), torch.inf)
    return pairs


def stretched(pairs: Tensor, bond: float) -> Tensor:
    """The distances (B, N, N) of structures scaled up until their mean nearest-neighbour distance is `bond` (Å).

    Structures whose mean is larger already, and single atoms, stay as they are.
    """
    apart = ~torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)
    nearest = pairs.masked_fill(~apart, torch.inf).amin(-1)
    bound = torch.isfinite(nearest)
    mean = nearest.where(bound, 0).sum(-1) / bound.sum(-1).clamp_min(1)
    scale = torch.where(bound.any(-1), bond / mean.clamp_min(1e-3), 1.0).clamp_min(1.0)
    return pairs * scale[:, None, None]


def topology(pairs: Tensor) -> Topology:
    """Counts and shells of structures whose distances are known.

    Args:
        pairs: (B, N, N) Å as :func:`distances` gives them.

    >>> pairs = distances(torch.tensor([[[0.0, 0, 0], [2.5, 0, 0], [7.5, 0, 0]]]), torch.ones(1, 3, dtype=torch.bool))
    >>> topology(pairs).counts.tolist(), topology(pairs).shell[0, 0].tolist()
    ([[[2, 0, 1], [2, 1, 0], [1, 1, 1]]], [0, 1, 3])
    """
    first, second, third = (pairs < cutoff for cutoff in CUTOFFS)
    within = torch.stack([inside.sum(-1) for inside in (first, second, third)], dim=-1)
    counts = torch.cat([within[..., :1], within[..., 1:] - within[..., :-1]], dim=-1)
    shell = 3 - first.int() - second.int()
    shell.masked_fill_((pairs <= CLOSEST) | torch.isinf(pairs), SHELLS)
    shell.diagonal(dim1=1, dim2=2).masked_fill_(pairs.diagonal(dim1=1, dim2=2) == 0, 0)
    return Topology(counts, shell)


def pack(counts: Tensor) -> Tensor:
    """One int64 code for each triple of counts (..., 3) -> (...)."""
    return counts[..., 0] + (counts[..., 1] << _BITS) + (counts[..., 2] << 2 * _BITS)


def unpack(codes: Tensor) -> Tensor:
    """The triples (..., 3) of codes made by :func:`pack`."""
    low = (1 << _BITS) - 1
    return torch.stack([codes & low, (codes >> _BITS) & low, codes >> 2 * _BITS], dim=-1)


def bags(shell: Tensor, kind: Tensor, kinds: int) -> Tensor:
    """Rows of a table of shell contributions that each atom adds up.

    The contribution of a neighbour depends on its shell and on its triple only. With the `kinds` distinct triples of
    a data set evaluated once, a table of ``SHELLS * kinds`` rows plus a last row of zeros holds all of them.

    Args:
        shell: (B, N, N) shell codes.
        kind: (B, N) number of the atom's triple among the distinct ones.
        kinds: How many distinct triples there are.

    Returns:
        (B, N, N) int32 row numbers; ``SHELLS * kinds`` is the row of zeros.
    """
    return (shell * kinds + kind[:, None, :].int()).clamp_max_(SHELLS * kinds)
