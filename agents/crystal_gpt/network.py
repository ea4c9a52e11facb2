"""The network: crystals as tokens, a causal transformer, and a density for what comes next.

One token stands for the space group (and the conditions), one for each site and, where it comes first, one for the
lattice. What comes next is decided in the order letter, element, x, y, z by a chain of perceptrons on top of the last
token, so that a crystal of n sites takes n + 1 tokens where the published model takes 5 n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from megen_gym.agents.crystal_gpt.cells import LatticeDensity
from megen_gym.agents.crystal_gpt.conditions import Conditions, Given, Known
from megen_gym.agents.crystal_gpt.encoding import ELEMENTS, Positions, Sites, waves
from megen_gym.agents.crystal_gpt.periodic import Kind, Mixture, log_density
from megen_gym.agents.crystal_gpt.trunk import Trunk

LETTERS = 28
"""X, a ... z, A."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a network.

    Attributes:
        order: Lattice before the sites ("first", P(L) P(A, X | L)) or after them ("last").
        n_max: Sites at most.
        layers, width, heads, key: Of the transformer.
        hidden: Of the perceptrons that decide.
        frequencies: Waves by which a coordinate is seen (Nf).
        components: Of the density of a coordinate (Kx).
        lattice_components: Of the density of a lattice parameter (Kl).
        coordinate: "von_mises" or "wrapped_normal".
        dropout: Of the transformer and the perceptrons.
        floor: Smallest spread, in radians for coordinates and in published units for the lattice.
    """

    order: Literal["first", "last"] = "first"
    n_max: int = 21
    layers: int = 4
    width: int = 64
    heads: int = 4
    key: int = 16
    hidden: int = 128
    frequencies: int = 5
    components: int = 16
    lattice_components: int = 8
    coordinate: Kind = "von_mises"
    dropout: float = 0.1
    floor: float = 1e-3


class Parts(NamedTuple):
    """Logarithms of the likelihood of crystals, each (B,): letters and end, elements, coordinates, lattice."""

    w: Tensor
    a: Tensor
    xyz: Tensor
    l: Tensor  # noqa: E741

    @property
    def total(self) -> Tensor:
        """(B,) of the whole crystal, given its space group."""
        return self.w + self.a + self.xyz + self.l


class Step(nn.Module):
    """A perceptron around a shortcut."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., W)."""
        out: Tensor = x + self.body(x)
        return out


class CrystalGPT(nn.Module):
    """P(crystal | space group, conditions) as a product of conditional densities; see the module's text.

    Args:
        shape: Sizes.
        known: What the model can be conditioned on.
    """

    def __init__(self, shape: Shape, known: Known | None = None) -> None:
        super().__init__()
        self.shape, width = shape, shape.width
        self.positions = Positions()
        self.conditions = Conditions(known or Known(), width)
        self.group, self.family = nn.Embedding(231, width), nn.Linear(6, width)
        self.index = nn.Embedding(shape.n_max + 2, width)
        self.letter, self.element = nn.Embedding(LETTERS, width), nn.Embedding(ELEMENTS, width)
        self.feature = nn.Linear(self.positions.features.shape[1], width, bias=False)
        self.point = nn.Linear(6 * shape.frequencies, width, bias=False)
        self.amount = nn.Linear(2, width)
        self.trunk = Trunk(shape.layers, width, shape.heads, shape.key, shape.dropout)
        self.letter_step = Step(width, shape.hidden, shape.dropout)
        self.element_step = Step(width, shape.hidden, shape.dropout)
        self.coordinate_step = nn.Sequential(
            Step(width, shape.hidden, shape.dropout), Step(width, shape.hidden, shape.dropout), nn.LayerNorm(width)
        )
        self.to_letter, self.to_element = nn.Linear(width, LETTERS), nn.Linear(width, ELEMENTS)
        self.chosen_letter, self.chosen_element = nn.Embedding(LETTERS, width), nn.Embedding(ELEMENTS, width)
        self.chosen_feature = nn.Linear(self.positions.features.shape[1], width, bias=False)
        self.axis, self.earlier = nn.Embedding(3, width), nn.Linear(6 * shape.frequencies, width, bias=False)
        self.to_coordinate = nn.Linear(width, 3 * shape.components)
        self.cell = LatticeDensity(width, shape.hidden, shape.lattice_components, shape.order == "last", shape.floor)
        if shape.order == "first":
            self.lattice = nn.Linear(8, width)
        for embedding in self.modules():
            if isinstance(embedding, nn.Embedding):
                nn.init.normal_(embedding.weight, std=0.1)
        for linear in (self.to_letter, self.to_element):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        nn.init.uniform_(self.to_coordinate.bias[shape.components : 2 * shape.components], -torch.pi, torch.pi)

    def begin(self, group: Tensor, given: Given | None = None) -> Tensor:
        """(B, W) the token of space groups (B,) and conditions."""
        token: Tensor = self.group(group) + self.family(self.positions.family[group]) + self.index.weight[0]
        return token + self.conditions(given) if self.conditions.known.names else token

    def lattice_token(self, lattice: Tensor) -> Tensor:
        """(B, W) of lattices (B, 6) in Å and radians."""
        edges = torch.log(lattice[:, :3])
        cosine = torch.cos(lattice[:, 3:])
        square = 1 - (cosine**2).sum(1) + 2 * cosine.prod(1)
        volume = edges.sum(1) + torch.log(square.clamp(min=1e-4)) / 2
        features = torch.cat([edges - 1.5, 3 * cosine, volume[:, None] - 4.5, volume[:, None] / 3 - 1.5], 1)
        token: Tensor = self.lattice(features.to(self.group.weight.dtype)) + self.index.weight[1]
        return token

    def site_tokens(self, sites: Sites, start: int = 0, atoms: Tensor | None = None) -> Tensor:
        """(B, K, W) of the sites, which are number `start` + 1, ... behind `atoms` (B,) atoms."""
        row = self.positions.row(sites.group[:, None], sites.letters)
        count = self.positions.multiplicity[row] * (sites.letters > 0)
        sofar = count.cumsum(1) if atoms is None else count.cumsum(1) + atoms[:, None]
        place = torch.arange(start, start + sites.letters.shape[1], device=row.device) + 2
        amount = torch.stack([torch.log1p(sofar), torch.log1p(count)], -1) / 3
        token: Tensor = (
            self.letter(sites.letters) + self.element(sites.elements) + self.feature(self.positions.features[row])
            + self.point(waves(self.positions.point(row, sites.angles), self.shape.frequencies))
            + self.amount(amount.to(self.point.weight.dtype)) + self.index(place)
        )  # fmt: skip
        return token

    def contexts(self, sites: Sites, given: Given | None = None) -> tuple[Tensor, Tensor]:
        """(B, K + 1, W) what decisions about site 1 ... K + 1 depend on, and (B, W) what the lattice depends on."""
        tokens = [self.begin(sites.group, given)[:, None]]
        if self.shape.order == "first":
            tokens.append(self.lattice_token(sites.lattice)[:, None])
        seen = self.trunk(torch.cat([*tokens, self.site_tokens(sites)], 1))
        if self.shape.order == "first":
            return seen[:, 1:], seen[:, 0]
        ends = (sites.letters > 0).sum(1)
        return seen, seen[torch.arange(len(ends), device=ends.device), ends]

    def letter_logits(self, context: Tensor, allowed: Tensor) -> Tensor:
        """(..., 28) of the next letter, X being 0, among those `allowed` (..., 28)."""
        logits: Tensor = self.to_letter(self.letter_step(context))
        return logits.masked_fill(~allowed, -torch.inf)

    def with_letter(self, context: Tensor, group: Tensor, letter: Tensor) -> Tensor:
        """(..., W) the context once a letter is chosen."""
        row = self.positions.row(group, letter)
        features = self.chosen_feature(self.positions.features[row])
        chosen: Tensor = self.element_step(context + self.chosen_letter(letter) + features)
        return chosen

    def element_logits(self, context: Tensor) -> Tensor:
        """(..., 119) of the element, given the letter; X is never one."""
        logits: Tensor = self.to_element(context)
        return logits.index_fill(-1, torch.zeros(1, dtype=torch.long, device=logits.device), -torch.inf)

    def coordinate_mixture(self, context: Tensor, element: Tensor, axis: Tensor, angles: Tensor) -> Mixture:
        """Of coordinate `axis` (R,) given the letter (in `context` (R, W)), the element and the earlier ones.

        Args:
            angles: (R, 3) 2 pi times the coordinates, those from `axis` on are not looked at; 0 where not free.
        """
        earlier = torch.arange(3, device=axis.device) < axis[:, None]
        seen = waves(angles, self.shape.frequencies).view(len(axis), 3, 2 * self.shape.frequencies) * earlier[..., None]
        hidden = context + self.chosen_element(element) + self.axis(axis) + self.earlier(seen.flatten(1))
        logits, location, raw = self.to_coordinate(self.coordinate_step(hidden)).chunk(3, -1)
        return Mixture(logits, location, torch.exp(raw.clamp(-12, 2)) + self.shape.floor)

    def allowed_letters(self, group: Tensor, before: Tensor) -> Tensor:
        """(..., 28) letters that may follow `before` (...), 0 at the start; X may follow all but the start."""
        row = self.positions.row(group, before)
        full = (before > 0) & ~self.positions.free[row].any(-1)
        letter = torch.arange(LETTERS, device=group.device)
        can = self.positions.letters[group] & (letter >= (before + full)[..., None]) & (letter > 0)
        return can | ((letter == 0) & (before > 0)[..., None])

    def log_prob(self, sites: Sites, given: Given | None = None, floor: float = 0.0) -> Parts:
        """Exact likelihood of crystals, part by part; only free coordinates and parameters are counted.

        Coordinates are measured in radians, edges per cube root of an atom, angles in radians, as published.

        Args:
            sites: Crystals.
            given: Conditions.
            floor: All spreads are at least this.
        """
        width = int((sites.letters > 0).sum(1).max())
        sites = sites.columns(0, width)
        filled = sites.letters > 0
        context, end = self.contexts(sites, given)
        before = torch.cat([torch.zeros_like(sites.group)[:, None], sites.letters], 1)
        target = torch.cat([sites.letters, torch.zeros_like(sites.group)[:, None]], 1)
        counted = torch.cat([torch.ones_like(filled[:, :1]), filled], 1)
        counted[:, self.shape.n_max :] = False
        row, step = counted.nonzero(as_tuple=True)
        group = sites.group[row]
        logits = self.letter_logits(context[row, step], self.allowed_letters(group, before[row, step]))
        size = len(sites)
        w = _summed(torch.log_softmax(logits, -1).gather(1, target[row, step][:, None])[:, 0], row, size)

        row, step = filled.nonzero(as_tuple=True)
        group, letter, element = sites.group[row], sites.letters[row, step], sites.elements[row, step]
        chosen = self.with_letter(context[row, step], group, letter)
        a = _summed(torch.log_softmax(self.element_logits(chosen), -1).gather(1, element[:, None])[:, 0], row, size)

        site, axis = self.positions.free[self.positions.row(group, letter)].nonzero(as_tuple=True)
        angles = (sites.angles[row, step] * self.positions.free[self.positions.row(group, letter)])[site]
        mixture = self.coordinate_mixture(chosen[site], element[site], axis, angles)
        value = angles.gather(1, axis[:, None])[:, 0]
        if floor > self.shape.floor:
            mixture = mixture._replace(spread=mixture.spread.clamp(min=floor))
        xyz = _summed(log_density(self.shape.coordinate, value, mixture), row[site], size)

        multiplicity = self.positions.multiplicity[self.positions.row(sites.group[:, None], sites.letters)]
        atoms = (multiplicity * filled).sum(1)
        return Parts(w, a, xyz, self.cell.log_prob(end, sites.group, sites.lattice, atoms, floor))


def _summed(values: Tensor, row: Tensor, size: int) -> Tensor:
    """(size,) sums of the values (R,) that belong to each crystal."""
    return torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, row, values)
