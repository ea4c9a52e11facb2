"""The density of lattices: a joint one over the free parameters of the crystal family, each given those before it.

The six numbers are log a, log b/a, log c/a and the three angles. Edges are positive because their logarithms are
modelled, and every cell has a volume because an angle is modelled as the logit of its place in the interval that the
angles before it leave. Beside normal components there are *ties*, narrow ones at b = a, c = a, c = b, at 60°, 90° and
120°, and at angles that are there: lattices are often more symmetric than their space group asks for.

Densities are given per published unit (CrystalFormer): edges divided by the cube root of the number of atoms, angles in
radians.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from megen_gym.agents.crystal_gpt.periodic import choose
from megen_gym.lattices import FAMILIES, FREE, completed, family_of

TIE = 1e-4
"""Spread of a tie, in published units."""

_KNOWN = (60.0, 90.0, 120.0)
_TIES = 5
"""Slots for ties: three known angles, two earlier numbers; edges use the last two."""

_EDGE = 2.0
"""Å per cube root of an atom: what floors of edges refer to where the number of atoms is not known yet."""


class LatticeDensity(nn.Module):
    """Six conditional mixtures, of which only the free ones of the family count.

    Args:
        width: D, of the context.
        hidden: Of the perceptron.
        components: Normal components of a number.
        counted: Whether the number of atoms is known: edges are then those of one atom.
        floor: Smallest spread of a normal component, in published units.
    """

    center: Tensor
    scale: Tensor
    free: Tensor
    family: Tensor

    def __init__(self, width: int, hidden: int, components: int, counted: bool, floor: float = 1e-3) -> None:
        super().__init__()
        self.components, self.counted, self.floor = components, counted, floor
        self.register_buffer("center", torch.tensor([0.8, 0.0, 0.3, 0.0, 0.0, 0.0]))
        self.register_buffer("scale", torch.tensor([0.2, 0.3, 0.5, 0.3, 0.3, 0.3]))
        self.register_buffer("free", torch.from_numpy(FREE), persistent=False)
        self.register_buffer("family", torch.from_numpy(family_of(np.arange(231))), persistent=False)
        self.place = nn.Embedding(len(FAMILIES) * 6, width)
        self.inward = nn.Linear(12, width)
        self.body = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, 3 * components + _TIES),
        )  # fmt: skip

    def fit(self, lattice: Tensor, group: Tensor, atoms: Tensor) -> None:
        """Set centre and scale of each number from data; see :meth:`log_prob`."""
        free = self.free[self.family[group]]
        numbers = self._numbers(lattice, atoms)
        for index in range(6):
            known = numbers[free[:, index], index]
            if len(known) > 1:
                self.center[index] = known.median()
                self.scale[index] = known.std().clamp(0.02, 2.0)

    def log_prob(self, context: Tensor, group: Tensor, lattice: Tensor, atoms: Tensor, floor: float = 0.0) -> Tensor:
        """(B,) logarithm of the density.

        Args:
            context: (B, D).
            group: (B,) space group numbers.
            lattice: (B, 6) Å and radians.
            atoms: (B,) atoms of the conventional cell.
            floor: All spreads are at least this, ties included.
        """
        family = self.family[group]
        row, index = self.free[family].nonzero(as_tuple=True)
        numbers = self._numbers(lattice, atoms)
        logits, location, spread = self._mixture(context[row], family[row], index, numbers[row], lattice[row], floor)
        value = numbers[row, index]
        each = -0.5 * ((value[:, None] - location) / spread) ** 2 - torch.log(spread * math.sqrt(2 * math.pi))
        density = torch.logsumexp(torch.log_softmax(logits, -1) + each, -1)
        low, high = _interval(index, lattice[row])
        angle = lattice[row].gather(1, index[:, None])[:, 0]
        density = torch.where((index < 3) | ((angle > low) & (angle < high)), density, -torch.inf)
        density = density + self._jacobian(index, lattice[row], atoms[row])
        return torch.zeros_like(atoms, dtype=density.dtype).index_add(0, row, density)

    def sample(
        self, context: Tensor, group: Tensor, atoms: Tensor, rng: np.random.Generator, temperature: float = 1.0
    ) -> Tensor:
        """(B, 6) lattices in Å and radians, the dependent parameters set."""
        family = self.family[group]
        lattice = self._completed(torch.ones(len(group), 6, dtype=torch.float64, device=context.device), family)
        numbers = torch.zeros_like(lattice)
        for index in range(6):
            row = self.free[family, index].nonzero()[:, 0]
            if not len(row):
                continue
            slot = torch.full_like(row, index)
            mixture = self._mixture(context[row], family[row], slot, numbers[row], lattice[row], 0.0)
            logits, location, spread = (part.double() for part in mixture)
            which = choose(logits / temperature, rng)[:, None]
            noise = torch.from_numpy(rng.standard_normal(len(row))).to(location) * math.sqrt(temperature)
            value = location.gather(1, which)[:, 0] + spread.gather(1, which)[:, 0] * noise
            numbers[row, index] = value
            if index < 3:
                edge = torch.exp(value) * (atoms[row] ** (1 / 3) if self.counted else 1.0)
                lattice[row, index] = edge if index == 0 else torch.exp(value) * lattice[row, 0]
            else:
                low, high = _interval(slot, lattice[row])
                lattice[row, index] = low + (high - low) * torch.sigmoid(value)
            lattice = self._completed(lattice, family)
        return lattice

    def _completed(self, lattice: Tensor, family: Tensor) -> Tensor:
        degrees = torch.cat([lattice[:, :3], torch.rad2deg(lattice[:, 3:])], 1).numpy(force=True)
        whole = torch.from_numpy(completed(degrees, family.numpy(force=True))).to(lattice)
        return torch.cat(
            [whole[:, :3], torch.where(self.free[family][:, 3:], lattice[:, 3:], torch.deg2rad(whole[:, 3:]))], 1
        )

    def _numbers(self, lattice: Tensor, atoms: Tensor) -> Tensor:
        """(B, 6) what is modelled."""
        edges = torch.log(lattice[:, :3])
        first = edges[:, :1] - (torch.log(atoms.to(edges))[:, None] / 3 if self.counted else 0.0)
        angles = []
        for index in range(3, 6):
            low, high = _interval(torch.full_like(atoms, index), lattice)
            angles.append(_logit((lattice[:, index] - low) / (high - low)))
        return torch.cat([first, edges[:, 1:] - edges[:, :1], torch.stack(angles, 1)], 1)

    def _jacobian(self, index: Tensor, lattice: Tensor, atoms: Tensor) -> Tensor:
        """Logarithm of the derivative of the modelled number by the published unit."""
        edge = lattice.gather(1, index[:, None])[:, 0]
        low, high = _interval(index, lattice)
        part = ((edge - low) / (high - low)).clamp(1e-6, 1 - 1e-6)
        slope = -torch.log((high - low) * part * (1 - part))
        return torch.where(index < 3, torch.log(atoms.to(edge)) / 3 - torch.log(edge), slope)

    def _mixture(
        self, context: Tensor, family: Tensor, index: Tensor, numbers: Tensor, lattice: Tensor, floor: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, locations and spreads (R, K + ties) of number `index` (R,), given those before it."""
        before = (torch.arange(6, device=index.device) < index[:, None]) & self.free[family]
        known = torch.where(before, (numbers - self.center) / self.scale, 0.0).to(context.dtype)
        features = torch.cat([known, before.to(known)], 1)
        hidden = context + self.place(family * 6 + index) + self.inward(features)
        out = self.body(hidden)
        k = self.components
        logits, raw, width, ties = torch.split(out, [k, k, k, _TIES], 1)
        center, scale = self.center[index][:, None], self.scale[index][:, None]
        location = center + scale * raw
        place, can = self._ties(family, index, numbers, lattice)
        location = torch.cat([location, place.to(location)], 1)
        unit = self._unit(index, location, numbers, lattice).to(location)
        spread = scale * torch.exp(width.clamp(-12, 3)) + max(self.floor, floor) * unit[:, :k]
        logits = torch.cat([logits, torch.where(can, ties - 2.0, -torch.inf)], 1)
        return logits, location, torch.cat([spread, max(TIE, floor) * unit[:, k:]], 1)

    def _ties(self, family: Tensor, index: Tensor, numbers: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
        """Where ties are (R, ties), as modelled numbers, and which there are."""
        free = self.free[family]
        zero, no = torch.zeros_like(numbers[:, 0]), torch.zeros_like(free[:, 0])
        like_a = (index == 1) | (index == 2)
        edges = torch.stack([zero, zero, zero, zero, numbers[:, 1]], 1)
        there = torch.stack([no, no, no, like_a, (index == 2) & free[:, 1]], 1)
        low, high = _interval(index, lattice)
        known = lattice.new_tensor(_KNOWN).deg2rad().expand(len(index), -1)
        part = (torch.cat([known, lattice[:, 3:5]], 1) - low[:, None]) / (high - low)[:, None]
        inside = (part > 1e-3) & (part < 1 - 1e-3)
        earlier = torch.stack([(index > 3) & free[:, 3], (index > 4) & free[:, 4]], 1)
        inside = inside & torch.cat([torch.ones_like(known, dtype=torch.bool), earlier], 1)
        angle = (index > 2)[:, None]
        return torch.where(angle, _logit(part), edges), torch.where(angle, inside, there)

    def _unit(self, index: Tensor, location: Tensor, numbers: Tensor, lattice: Tensor) -> Tensor:
        """(R, K) how much of the modelled number one published unit is, at `location`."""
        reference = torch.where(index == 0, torch.zeros_like(numbers[:, 0]), numbers[:, 0])[:, None]
        low, high = _interval(index, lattice)
        part = torch.sigmoid(location)
        angles = 1 / ((high - low)[:, None] * part * (1 - part)).clamp(min=1e-6)
        edges = torch.exp(-(location + reference)) if self.counted else torch.full_like(location, 1 / _EDGE)
        return torch.where(index[:, None] < 3, edges, angles).detach()


def _interval(index: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
    """(R,) radians between which angle `index` (3, 4, 5) makes a cell with those before it."""
    zero, half = torch.zeros_like(lattice[:, 0]), torch.full_like(lattice[:, 0], math.pi)
    alpha, beta = lattice[:, 3], lattice[:, 4]
    last = index == 5
    low = torch.where(last, (alpha - beta).abs(), zero)
    return low, torch.where(last, torch.minimum(alpha + beta, 2 * math.pi - alpha - beta), half)


def _logit(part: Tensor) -> Tensor:
    return torch.logit(part.clamp(1e-6, 1 - 1e-6))
