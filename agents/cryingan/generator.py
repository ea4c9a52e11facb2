"""The default generator: a random packing about the sites of the data, made right by messages between neighbours."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from megen_gym.agents.cryingan.sites import Occupation, Sites
from megen_gym.agents.cryingan.system import System
from megen_gym.periodic import Lattice
from megen_gym.structure import FloatArray

CHUNK = 128
"""Structures whose neighbourhoods are held in memory at a time where no gradient is needed."""

RADIAL = 8
"""Radial functions of a distance."""


class Fourier(nn.Module):
    """sin and cos of 2 pi n f along every axis, n up to two waves per neighbour distance: periodic features of a place.

    Along an axis that is not periodic the waves are half as long, so that the two ends of the cell differ.

    Args:
        lattice: The cell.
        spacing: Å, mean distance of nearest neighbours.
    """

    waves: Tensor

    def __init__(self, lattice: Lattice, spacing: float) -> None:
        super().__init__()
        counts = np.ceil(2 * lattice.heights / spacing).astype(int).clip(1)
        waves = [
            np.eye(3)[axis] * n * (2 * math.pi if lattice.pbc[axis] else math.pi)
            for axis, count in enumerate(counts)
            for n in range(1, count + 1)
        ]
        self.size = 2 * len(waves)
        self.register_buffer("waves", torch.tensor(np.linalg.inv(lattice.cell) @ np.stack(waves).T).float(), False)

    def forward(self, positions: Tensor) -> Tensor:
        """(..., size) features of positions (..., 3) in Å."""
        phase = positions @ self.waves.to(positions.dtype)
        return torch.cat([torch.sin(phase), torch.cos(phase)], -1)


class Interaction(nn.Module):
    """One round: messages along distances and bonds, which move the atoms and update their features."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.own, self.send = nn.Linear(width, channels), nn.Linear(width, channels)
        self.radial = nn.Linear(RADIAL, channels, bias=False)
        self.force = nn.Linear(channels, 1, bias=False)
        self.update = nn.Sequential(nn.Linear(width + channels, width), nn.SiLU(), nn.Linear(width, width))
        self.move = nn.Linear(width, 3)
        nn.init.zeros_(self.force.weight)
        nn.init.normal_(self.move.weight, std=1e-2)
        nn.init.zeros_(self.move.bias)


class SiteGenerator(nn.Module):
    """z (B, latent_size) -> fractions (B, N, 3), not wrapped, atoms grouped by element.

    1. An element for every site, see :class:`.sites.Occupation`, and displacements from :class:`.sites.Sites`.
    2. `rounds` of messages between the sites' neighbours: each pair is pushed along its line, each atom along the axes
       of the cell, as distances, elements and noise say.
    3. The displacements of every site get the mean and the spread that they have in the data, so that what is left to
       be learned is how they depend on one another.

    Args:
        system: Cell and elements.
        sites: Where atoms are, and how much they move.
        spacing: Å, mean distance of nearest neighbours.
        latent_dim: Random numbers of an atom, and of the whole, beside those of the first step.
        width: Features of an atom.
        channels: Channels of a message.
        rounds: Interactions.
    """

    mean: Tensor
    scale: Tensor
    anchors: Tensor
    spread: Tensor
    modes: Tensor
    rest: Tensor
    amplitude: Tensor
    waves: Tensor
    neighbours: Tensor
    bonds: Tensor
    shifts: Tensor
    cell_inverse: Tensor
    centres: Tensor

    def __init__(
        self,
        system: System,
        sites: Sites,
        spacing: float,
        latent_dim: int = 8,
        width: int = 32,
        channels: int = 16,
        rounds: int = 3,
    ) -> None:
        super().__init__()
        self.atoms, self.elements, self.spacing = len(system.numbers), len(system.counts), spacing
        self.occupation = Occupation(sites.occupancy, system.counts)
        self.parts = [self.elements - 1, 3, latent_dim]
        self.shared = [sites.modes.shape[1], 1 + latent_dim]
        self.latent_size = self.atoms * sum(self.parts) + sum(self.shared)
        for name, value in _neighbourhood(system.lattice, sites, spacing).items():
            self.register_buffer(name, value, persistent=False)
        fourier = Fourier(system.lattice, spacing)
        constants = {
            "anchors": sites.anchors,
            "spread": sites.spread,
            "modes": sites.modes,
            "rest": sites.rest.reshape(-1, 1, 3),
            "amplitude": sites.amplitude,
            "cell_inverse": np.linalg.inv(system.lattice.cell),
            "centres": np.linspace(0.6, 1.5, RADIAL),
        }
        for name, array in constants.items():
            self.register_buffer(name, torch.tensor(array, dtype=torch.float32), persistent=False)
        self.register_buffer("waves", fourier(self.anchors), persistent=False)
        self.register_buffer("mean", torch.zeros(self.atoms, 1, 3), persistent=False)
        self.register_buffer("scale", torch.ones(self.atoms, 1, 3), persistent=False)
        columns = fourier.size + self.elements + 3 + 2 * latent_dim + 1
        self.embed = nn.Sequential(nn.Linear(columns, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.bond = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, rounds * channels))
        self.rounds = nn.ModuleList(Interaction(width, channels) for _ in range(rounds))

    def forward(self, z: Tensor) -> Tensor:
        element, displacement = self._displace(z)
        if self.training:
            mean = displacement.mean(1, keepdim=True)
            scale = displacement.std(1, keepdim=True) if len(z) > 1 else torch.ones_like(mean)
        else:
            mean, scale = self.mean, self.scale
        moved = (displacement - mean) / scale.clamp(min=1e-6) * self.spread[:, None] + self.anchors[:, None]
        order = element.T.argsort(dim=1, stable=True)
        grouped = moved.transpose(0, 1).gather(1, order[..., None].expand(*order.shape, 3))
        return grouped @ self.cell_inverse

    @torch.no_grad()
    def calibrate(self, z: Tensor) -> None:
        """Fix the means and spreads that are used outside training, from many latents (B, latent_size)."""
        displacement = torch.cat([self._displace(part)[1] for part in torch.split(z, CHUNK)], 1)
        self.mean.copy_(displacement.mean(1, keepdim=True))
        self.scale.copy_(displacement.std(1, keepdim=True))

    def _displace(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Element (N, B) and displacement (N, B, 3) in Å of every site."""
        motions, common, own = torch.split(z, [*self.shared, self.atoms * sum(self.parts)], -1)
        which, first, noise = torch.split(own.view(len(z), self.atoms, -1).transpose(0, 1), self.parts, -1)
        element = self.occupation(which)
        collective = (motions @ self.modes.T).view(len(z), self.atoms, 3).transpose(0, 1)
        scale = torch.exp(self.amplitude[0] + self.amplitude[1] * common[:, :1])
        first = (collective + self.rest * first) * scale
        noise = torch.cat([noise, common.expand(self.atoms, -1, -1)], -1)
        return element, self._interact(element, first, noise) - self.anchors[:, None]

    def _interact(self, element: Tensor, first: Tensor, noise: Tensor) -> Tensor:
        """(N, B, 3) Å after all rounds; sites come first, so that neighbours are gathered as whole rows."""
        size = element.shape[1]
        kinds = nn.functional.one_hot(element, self.elements).to(first.dtype)
        place = self.waves[:, None].expand(-1, size, -1)
        features = self.embed(torch.cat([place, kinds, first, noise], -1))
        positions = self.anchors[:, None] + self.spread[:, None] * first
        bonds = self.bond(self.bonds)[:, :, None].chunk(len(self.rounds), -1)
        width = self.centres[1] - self.centres[0]
        near = (self.atoms, -1, size)
        for layer, bond in zip(self.rounds, bonds, strict=True):
            assert isinstance(layer, Interaction)
            vectors = positions.index_select(0, self.neighbours).view(*near, 3) - positions[:, None] + self.shifts
            distance = (vectors.square().sum(-1, keepdim=True) / self.spacing**2).clamp(min=1e-4).sqrt()
            basis = torch.relu(1 - ((distance - self.centres) / (2 * width)).square())
            sent = layer.send(features).index_select(0, self.neighbours).view(*near, layer.send.out_features)
            message = (layer.radial(basis) + bond) * (sent + layer.own(features)[:, None])
            positions = positions + (vectors * (layer.force(message) / distance)).sum(1) + layer.move(features)
            features = features + layer.update(torch.cat([features, message.mean(1)], -1))
        return positions


def _neighbourhood(lattice: Lattice, sites: Sites, spacing: float) -> dict[str, Tensor]:
    """Neighbours (N k,) of the anchors, lattice vectors (N, k, 1, 3) to the image meant, and bonds (N, k, 3).

    k is the largest number of anchors within 1.45 neighbour distances and three times the spread, so that atoms which
    can touch see each other; of several images of an anchor the nearest counts.
    """
    anchors: FloatArray = sites.anchors
    apart = anchors - anchors[:, None]
    vectors = lattice.minimum_image(apart)
    length = np.linalg.norm(vectors, axis=-1)
    np.fill_diagonal(length, np.inf)
    reach = 1.45 * spacing + 3 * math.sqrt(float((sites.spread**2).mean()))
    most = min(max(1, int((length < reach).sum(1).max())), len(anchors) - 1)
    near = np.argsort(length, axis=1, kind="stable")[:, :most]
    bonds = np.take_along_axis(vectors, near[..., None], 1)
    shifts = bonds - np.take_along_axis(apart, near[..., None], 1)
    return {
        "neighbours": torch.from_numpy(near.reshape(-1)),
        "shifts": torch.tensor(shifts, dtype=torch.float32)[:, :, None],
        "bonds": torch.tensor(bonds / spacing, dtype=torch.float32),
    }
