"""The network of DART and the pair repulsion that keeps it honest at short distances.

DART (Modee et al., Phys. Chem. Chem. Phys. 23, 21995 (2021), doi 10.1039/d1cp02956h) with the sizes that MeGen uses
(doi 10.1088/2632-2153/acdc03). Four branches f map a triple of counts t to 128 numbers; an atom adds up its own triple
and those of its neighbours by shell, and a head turns the sum into an atomic energy in kcal/mol:

    h_i = f_i(t_i) + sum_{j shell} f_j(t_j) + sum_{k shell} f_k(t_k) + sum_{l shell} f_l(t_l),   E = sum_i head(h_i)

Counts are integers, so each branch is evaluated once per *distinct* triple. The first layer of the head is linear and
is applied to these few rows as well; the sum over neighbours then happens in front of its activation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from megen_gym.errors import InputError

BRANCHES = ("fi", "fj", "fk", "fl")
ALPHA = 0.1
"""Of the continuously differentiable exponential linear units."""

PUBLISHED_WIDTHS = (128, 128, 256, 128, 32)
Widths = tuple[int, ...]


class PairRepulsion(nn.Module):
    """Born-Mayer repulsion, ``sum_{i<j} A exp(-p (d_ij / r0 - 1)) s(d_ij)`` in eV.

    Counts do not change when atoms move closer, so a model of counts alone can be paid for overlap. A and p stay
    positive because their logarithms are the parameters. s falls from 1 to 0 as a half cosine between the distances
    of `switch`.

    Args:
        strength: A in eV, the energy of a pair at the distance r0.
        steepness: p, dimensionless.
        switch: Å, where the switching function begins and ends.
    """

    r0 = 2.7
    """Å; a usual Ga-Ga bond."""

    def __init__(self, strength: float = 0.1, steepness: float = 9.0, switch: tuple[float, float] = (3.0, 4.0)) -> None:
        super().__init__()
        self.switch = switch
        self.log_strength = nn.Parameter(torch.tensor(math.log(strength)))
        self.log_steepness = nn.Parameter(torch.tensor(math.log(steepness)))

    def forward(self, pairs: Tensor) -> Tensor:
        """(...) eV of each pair at the distance `pairs` (...) Å; zero where the distance is infinite."""
        low, high = self.switch
        smooth = 0.5 + 0.5 * torch.cos(math.pi * (pairs.clamp(low, high) - low) / (high - low))
        exponent = self.log_strength - self.log_steepness.exp() * (pairs.clamp_max(high) / self.r0 - 1)
        return exponent.exp() * smooth


class DartNet(nn.Module):
    """DART's network, parameter names as published (``fi1.weight`` ... ``inter4.bias``).

    Args:
        widths: Sizes of the two branch layers and of the three hidden layers of the head.
        repulsion: Whether the network is guarded against compression; the published weights are not. A guarded network
            looks at clusters as if they were stretched until their mean nearest-neighbour distance is at least `bond`,
            and a :class:`PairRepulsion` pays for the difference: shrinking a bound cluster cannot lower its energy,
            whatever the network says.

    Raises:
        InputError: for widths that are not five positive numbers.
    """

    bond = 2.75
    """Å; of 635 minima of 2 to 17 atoms all but two have a shorter mean nearest-neighbour distance."""

    def __init__(self, widths: Widths = PUBLISHED_WIDTHS, repulsion: bool = False) -> None:
        super().__init__()
        if len(widths) != 5 or min(widths) < 1:
            raise InputError(f"widths {widths} given; expected five positive layer sizes such as {PUBLISHED_WIDTHS}")
        self.widths = widths
        for name in BRANCHES:
            self.add_module(f"{name}1", nn.Linear(3, widths[0]))
            self.add_module(f"{name}2", nn.Linear(widths[0], widths[1]))
        self.inter1 = nn.Linear(widths[1], widths[2])
        self.inter2 = nn.Linear(widths[2], widths[3])
        self.inter3 = nn.Linear(widths[3], widths[4])
        self.inter4 = nn.Linear(widths[4], 1)
        self.repulsion = PairRepulsion(switch=(2.55, 2.95)) if repulsion else None

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> DartNet:
        """A network with the given parameters, its sizes read off their shapes.

        Raises:
            InputError: for missing, superfluous or wrongly shaped parameters.
        """
        known = {name: value for name, value in state.items() if name != "mask.weight"}  # published but never used
        sizes = ("fi1", "fi2", "inter1", "inter2", "inter3")
        widths = tuple(
            len(known[f"{name}.bias"]) if known.get(f"{name}.bias", torch.ones(())).ndim else 0 for name in sizes
        )
        if min(widths) < 1:
            absent = ", ".join(f"{name}.bias" for name, width in zip(sizes, widths, strict=True) if width < 1)
            raise InputError(f"the weights lack {absent}; give DART weights with the keys fi1.weight ... inter4.bias")
        net = cls(widths, any(name.startswith("repulsion.") for name in known)).to(known["fi1.bias"].dtype)
        own = net.state_dict()
        missing, extra = sorted(own.keys() - known.keys()), sorted(known.keys() - own.keys())
        if missing or extra:
            fault = f"lack {', '.join(missing)}" if missing else f"have the unknown keys {', '.join(extra)}"
            raise InputError(f"the weights {fault}; give DART weights with the keys fi1.weight ... inter4.bias")
        for name, value in known.items():
            if value.shape != own[name].shape:
                raise InputError(
                    f"weight {name} has shape {tuple(value.shape)}, expected {tuple(own[name].shape)} beside the other "
                    "layers; give weights that belong together"
                )
        net.load_state_dict(known)
        return net

    def table(self, triples: Tensor) -> Tensor:
        """Contributions of every triple in every shell, behind the first layer of the head and without its bias.

        Args:
            triples: (U, 3) counts.

        Returns:
            (4 U + 1, widths[2]); the rows of shell s begin at s * U and the last row is zero.
        """
        counts = triples.to(self.inter1.weight.dtype)
        rows = []
        for name in BRANCHES:
            first, second = cast(nn.Linear, getattr(self, f"{name}1")), cast(nn.Linear, getattr(self, f"{name}2"))
            rows.append(functional.celu(second(functional.celu(first(counts), ALPHA)), ALPHA))
        table = functional.linear(torch.cat(rows), self.inter1.weight)
        return torch.cat([table, table.new_zeros(1, table.shape[1])])

    def head(self, table: Tensor, bags: Tensor) -> Tensor:
        """Atomic energies.

        Args:
            table: What :meth:`table` returns.
            bags: (A, N) rows of `table` that each of A atoms adds up.

        Returns:
            (A,) kcal/mol.
        """
        hidden = functional.embedding_bag(bags, table, mode="sum").add_(self.inter1.bias)
        for layer in (self.inter2, self.inter3, self.inter4):
            hidden = layer(functional.celu(hidden, ALPHA, inplace=True))
        return hidden[:, 0]

    def forward(self, triples: Tensor, bags: Tensor) -> Tensor:
        """(A,) kcal/mol of atoms; arguments as in :meth:`table` and :meth:`head`."""
        return self.head(self.table(triples), bags)
