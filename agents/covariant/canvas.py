"""From a padded observation to the atoms that are there, their surroundings, and the frame that each carries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FAR = 1.0e3
"""Å; where a missing atom is put, out of reach of every rule."""


def dot(a: Tensor, b: Tensor) -> Tensor:
    """(...) scalar products of vectors (..., 3); five times as fast as a sum over so short an axis."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


@dataclass(frozen=True)
class Canvas:
    """A batch of structures, padded only to the largest of the batch, with its A nodes listed one after the other.

    A node is an atom; an empty canvas has one ghost node (species X, at the origin, without neighbours), so that no
    step needs a special case.

    Attributes:
        positions: (B, N, 3) Å.
        species: (B, N) index into symbols, 0 where there is no atom.
        mask: (B, N) true where there is an atom.
        bag: (B, S) atoms left of each symbol.
        focus_mask: (B, N) 0/1.
        element_mask: (B, S) 0/1.
        node: (A,) place of each node in the flattened (B N).
        row: (B, N) node of each slot, 0 where there is none.
        structure: (A,) the structure of each node.
        vectors: (A, N, 3) Å, from each node to each atom of its structure.
    """

    positions: Tensor
    species: Tensor
    mask: Tensor
    bag: Tensor
    focus_mask: Tensor
    element_mask: Tensor
    node: Tensor
    row: Tensor
    structure: Tensor
    vectors: Tensor

    @classmethod
    def from_observation(cls, observation: dict[str, Tensor], dtype: torch.dtype) -> Canvas:
        """Trim and list an observation; positions (B, C, 3) or flat (B, 3 C), numbers of any type."""
        species = observation["species"].long()
        width = max(1, int((species > 0).sum(-1).max()))
        species = species[:, :width]
        mask = species > 0
        positions = observation["positions"].reshape(*observation["species"].shape, 3)[:, :width].to(dtype)
        listed = mask.clone()
        listed[:, 0] = True
        node = listed.flatten().nonzero()[:, 0]
        structure = node // width
        row = (torch.cumsum(listed.flatten(), 0) - 1).view_as(mask) * listed
        return cls(
            positions=positions,
            species=species,
            mask=mask,
            bag=observation["bag"].to(dtype),
            focus_mask=observation["focus_mask"][:, :width].to(dtype),
            element_mask=observation["element_mask"].to(dtype),
            node=node,
            row=row,
            structure=structure,
            vectors=positions[structure] - positions.reshape(-1, 3)[node][:, None],
        )

    @property
    def n_atoms(self) -> Tensor:
        """(B,) number of atoms."""
        return self.mask.sum(-1)

    @property
    def others(self) -> Tensor:
        """(A, N) true for the atoms of the node's structure other than itself."""
        slot = self.node - self.structure * self.mask.shape[1]
        itself = slot[:, None] == torch.arange(self.mask.shape[1], device=slot.device)
        return self.mask[self.structure] & ~itself


def local_frames(vectors: Tensor, others: Tensor) -> Tensor:
    """Right-handed axes that turn with the structure, one set per node.

    z points to the nearest atom, x into the half-plane of the nearest one off that line (more than 6 degrees; if there
    is none, of the one that is farthest off).
    Distances decide, so that the numbering of the atoms does not; between two at one distance the rounding decides.
    Atoms in a line fix z only, a lone atom nothing: any completion serves, since what is seen is symmetric about z.

    Args:
        vectors: (A, N, 3) Å, to the atoms.
        others: (A, N) which of them count.

    Returns:
        (A, 3, 3), columns x, y, z in laboratory coordinates.
    """
    every = torch.arange(len(vectors), device=vectors.device)
    length = torch.where(others, torch.sqrt(dot(vectors, vectors)), FAR)
    lab = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    near = length.argmin(-1)
    apart = length[every, near]
    found = ((apart < FAR) & (apart > 1e-6))[:, None]
    z = torch.where(found, vectors[every, near] / apart.clip(1e-6)[:, None], lab[2])
    sideways = vectors - dot(vectors, z[:, None])[..., None] * z[:, None]
    off = torch.sqrt(dot(sideways, sideways))
    rank = torch.where(off > 0.1 * length, length, 2 * FAR - off)
    side = torch.where(others, rank, 3 * FAR).argmin(-1)
    spare = lab[z.abs().argmin(-1)]
    spare = spare - dot(spare, z)[:, None] * z
    bent = others[every, side] & (off[every, side] > 1e-4 * length[every, side])
    x = torch.where(bent[:, None], sideways[every, side], spare)
    x = x / torch.sqrt(dot(x, x))[:, None]
    return torch.stack([x, torch.linalg.cross(z, x), z], -1)
