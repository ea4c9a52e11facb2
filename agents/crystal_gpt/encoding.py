"""What the network sees of crystals: tensors of sites, and features of the 1,731 Wyckoff positions."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from megen_gym.crystals import CrystalBatch
from megen_gym.lattices import FAMILIES, family_of
from megen_gym.wyckoff import LETTERS, wyckoff_table

ELEMENTS = 119
"""X, H ... Og."""


@dataclass(frozen=True, eq=False)
class Sites:
    """`B` crystals of up to `K` sites as tensors.

    Attributes:
        group: (B,) space group numbers.
        letters: (B, K) 1 for a ... 27 for A, 0 where there is no site.
        elements: (B, K) atomic numbers, 0 where there is no site.
        angles: (B, K, 3) fractional coordinates times 2 pi, float32.
        lattice: (B, 6) Å and radians, float64.
    """

    group: Tensor
    letters: Tensor
    elements: Tensor
    angles: Tensor
    lattice: Tensor

    @classmethod
    def of(cls, crystals: CrystalBatch) -> Sites:
        """The tensors of `crystals`."""
        lattice = np.concatenate([crystals.lattice[:, :3], np.deg2rad(crystals.lattice[:, 3:])], 1)
        angles = 2 * np.pi * crystals.coordinates
        return cls(
            torch.from_numpy(crystals.group.astype(np.int64)),
            torch.from_numpy(crystals.letters.astype(np.int64)),
            torch.from_numpy(crystals.elements.astype(np.int64)),
            torch.from_numpy(angles.astype(np.float32)),
            torch.from_numpy(lattice),
        )

    def __len__(self) -> int:
        return len(self.group)

    def __getitem__(self, rows: Tensor | slice | ArrayLike) -> Sites:
        index = rows if isinstance(rows, slice | Tensor) else torch.as_tensor(np.asarray(rows))
        return Sites(*(getattr(self, field.name)[index] for field in fields(self)))

    def columns(self, begin: int, end: int) -> Sites:
        """The same crystals with sites `begin` to `end` only, the latter left out."""
        few = slice(begin, end)
        return Sites(self.group, self.letters[:, few], self.elements[:, few], self.angles[:, few], self.lattice)

    def to(self, device: torch.device | str) -> Sites:
        """The same on another device."""
        return Sites(*(getattr(self, field.name).to(device) for field in fields(self)))

    def crystals(self) -> CrystalBatch:
        """Back to arrays; the inverse of :meth:`of`."""
        lattice = self.lattice.double().numpy(force=True)
        lattice = np.concatenate([lattice[:, :3], np.rad2deg(lattice[:, 3:])], 1)
        coordinates = self.angles.double().numpy(force=True) / (2 * np.pi)
        arrays = (self.group.numpy(force=True), self.letters.numpy(force=True), self.elements.numpy(force=True))
        crystals = CrystalBatch(*arrays, coordinates, lattice)
        table, row = wyckoff_table(), crystals.position  # angles that are not free need not be set
        place = table.representative(row, table.coordinates(row, coordinates)) % 1.0
        return replace(crystals, coordinates=np.where(crystals.letters[..., None] > 0, place, 0.0))


class Positions(nn.Module):
    """Constants of space groups and Wyckoff positions, by group and by letter.

    Attributes:
        first: (231,) row of each group's position a.
        multiplicity: (P,) atoms.
        free: (P, 3) which coordinates are free.
        features: (P, 10) logarithm of the multiplicity, free coordinates, shift as waves.
        letters: (231, 28) letters that a group has; 0 is X.
        family: (231, 6) crystal family, one-hot.
    """

    first: Tensor
    multiplicity: Tensor
    free: Tensor
    shift: Tensor
    basis: Tensor
    features: Tensor
    letters: Tensor
    family: Tensor

    def __init__(self) -> None:
        super().__init__()
        table = wyckoff_table()
        waves = 2 * np.pi * table.shift
        features = np.concatenate(
            [np.log(table.multiplicity)[:, None] / 3, table.free, np.cos(waves), np.sin(waves)], 1
        )
        has = np.arange(len(LETTERS) + 1) <= table.count[:, None]
        constants = {
            "first": table.first, "multiplicity": table.multiplicity, "free": table.free,
            "shift": table.shift.astype(np.float32), "basis": table.basis.astype(np.float32),
            "features": features.astype(np.float32), "letters": has,
            "family": np.eye(len(FAMILIES), dtype=np.float32)[family_of(np.arange(231))],
        }  # fmt: skip
        for name, value in constants.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value)), persistent=False)

    def row(self, group: Tensor, letters: Tensor) -> Tensor:
        """(...) position of each letter 1 ... 27 (0 counts as a) of groups of the same shape."""
        return self.first[group] + (letters - 1).clamp(min=0)

    def point(self, row: Tensor, angles: Tensor) -> Tensor:
        """(..., 3) representatives times 2 pi for coordinates times 2 pi, of which only the free ones count."""
        free = (angles * self.free[row])[..., None, :] @ self.basis[row]
        return free[..., 0, :] + 2 * torch.pi * self.shift[row]


def waves(angles: Tensor, count: int) -> Tensor:
    """(..., 2 F n) cosines and sines of 1 ... F = `count` times the angles (..., n)."""
    multiples = angles[..., None] * torch.arange(1, count + 1, device=angles.device)
    return torch.cat([multiples.cos(), multiples.sin()], -1).flatten(-2)
