"""What crystals can be asked for beside their space group: properties, composition, elements, number of atoms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megen_gym.agents.crystal_gpt.encoding import ELEMENTS, Positions, Sites

COUNTED = ("composition", "elements", "n_atoms")
"""Conditions that are read off the crystal; all others are properties from the data."""


@dataclass(frozen=True)
class Known:
    """The conditions of a model.

    Attributes:
        properties: Names.
        mean, std: Of each property over the training data.
        counted: Those of "composition", "elements" and "n_atoms" that the model was trained with.
    """

    properties: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    counted: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.properties, *self.counted)


@dataclass(frozen=True, eq=False)
class Given:
    """Conditions of `B` crystals; what is not given is NaN (properties) or zero.

    Attributes:
        properties: (B, P) in the data's units, in the order of :attr:`Known.properties`; NaN where not given.
        composition: (B, 119) share of each element.
        elements: (B, 119) 1 for the elements that may occur.
        n_atoms: (B,) atoms of the conventional cell.
    """

    properties: Tensor
    composition: Tensor
    elements: Tensor
    n_atoms: Tensor

    @classmethod
    def none(cls, size: int, properties: int) -> Given:
        """Nothing is given."""
        zeros = torch.zeros(size, ELEMENTS)
        return cls(torch.full((size, properties), torch.nan), zeros, zeros, torch.zeros(size))

    @classmethod
    def of(cls, sites: Sites, properties: Tensor, positions: Positions) -> Given:
        """Everything about crystals."""
        count = positions.multiplicity[positions.row(sites.group[:, None], sites.letters)] * (sites.letters > 0)
        atoms = torch.zeros(len(sites), ELEMENTS, device=count.device).scatter_add_(1, sites.elements, count.float())
        total = atoms.sum(1)
        return cls(properties, atoms / total[:, None], (atoms > 0).float(), total)

    def __getitem__(self, rows: Tensor) -> Given:
        return Given(self.properties[rows], self.composition[rows], self.elements[rows], self.n_atoms[rows])

    def dropped(self, share: float, rng: torch.Generator) -> Given:
        """Each condition left out of each crystal at a chance, and all of them at the same chance."""
        size, count = len(self.n_atoms), self.properties.shape[1]
        keep = (torch.rand(size, count + 3, generator=rng) >= share).to(self.n_atoms.device)
        keep &= (torch.rand(size, 1, generator=rng) >= share).to(keep.device)
        return Given(
            torch.where(keep[:, :count], self.properties, torch.nan),
            self.composition * keep[:, count, None],
            self.elements * keep[:, count + 1, None],
            self.n_atoms * keep[:, count + 2],
        )


class Conditions(nn.Module):
    """A sum of one token for each condition that is given."""

    mean: Tensor
    std: Tensor

    def __init__(self, known: Known, width: int) -> None:
        super().__init__()
        self.known, self.width, count = known, width, len(known.properties)
        self.register_buffer("mean", torch.tensor(known.mean), persistent=False)
        self.register_buffer("std", torch.tensor(known.std), persistent=False)
        self.value = nn.Linear(2 * count, width, bias=False) if count else None
        sizes = {"composition": ELEMENTS + 1, "elements": ELEMENTS + 1, "n_atoms": 3}
        self.counts = nn.ModuleDict({name: nn.Linear(sizes[name], width, bias=False) for name in known.counted})
        self.mix = (
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) if known.names else None
        )

    def forward(self, given: Given | None) -> Tensor:
        """(B, W); (1, W) for None, where nothing is given: what training sees when all conditions are dropped."""
        assert self.mix is not None, "a model without conditions has no token for them"
        if given is None:
            nothing: Tensor = self.mix(self.mean.new_zeros(1, self.width))
            return nothing
        parts = []
        if self.value is not None:
            there = ~given.properties.isnan()
            value = torch.where(there, (given.properties - self.mean) / self.std, 0.0)
            parts.append(self.value(torch.cat([value, there.to(value)], 1)))
        for name, linear in self.counts.items():
            amount = getattr(given, name)
            if name == "n_atoms":
                has = (amount > 0).float()
                parts.append(linear(torch.stack([has, torch.log1p(amount), amount / 20], 1)))
            else:
                has = amount.any(1, keepdim=True).float()
                parts.append(linear(torch.cat([amount, has], 1)))
        out: Tensor = self.mix(torch.stack(parts).sum(0))
        return out
