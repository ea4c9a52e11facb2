"""From a padded observation to the atoms that are there, their surroundings, and the frame that each carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor

from megen_gym.periodic import Lattice, lattice_of

FAR = 1.0e3
"""Å; where a missing atom is put, out of reach of every rule."""


def dot(a: Tensor, b: Tensor) -> Tensor:
    """(...) scalar products of vectors (..., 3); five times as fast as a sum over so short an axis."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


class Cells(NamedTuple):
    """The cells of B structures, each kind once.

    Attributes:
        kinds: Different cells.
        which: (B,) the kind of each structure.
    """

    kinds: list[Lattice]
    which: Tensor

    @classmethod
    def from_observation(cls, cell: Tensor, pbc: Tensor) -> Cells:
        """From vectors a, b, c one after the other (B, 9), Å, and periodic axes (B, 3) 0/1."""
        rows, which = torch.unique(torch.cat([cell.double(), pbc.double()], -1), dim=0, return_inverse=True)
        numbers = rows.cpu().numpy()
        kinds = [lattice_of(row[:9].tobytes(), (bool(row[9]), bool(row[10]), bool(row[11]))) for row in numbers]
        return cls(kinds, which)

    def nearest(self, vectors: Tensor, structure: Tensor) -> Tensor:
        """The shortest periodic images (A, N, 3) of vectors (A, N, 3), Å, in the structures (A,)."""
        if len(self.kinds) == 1:
            return cast(Tensor, self.kinds[0].minimum_image(vectors))
        found = torch.empty_like(vectors)
        for number, lattice in enumerate(self.kinds):
            rows = self.which[structure] == number
            found[rows] = lattice.minimum_image(vectors[rows])
        return found

    def within(self, vectors: Tensor, present: Tensor, structure: Tensor, reach: float) -> tuple[Tensor, Tensor]:
        """All images of the vectors up to `reach` Å.

        Args:
            vectors: (A, N, 3) Å.
            present: (A, N) which of them count.
            structure: (A,) their structures.
            reach: Å.

        Returns:
            (A, M, 3) Å and (A, M) which of them count, M the most of any row.
        """
        rows = [(self.which[structure] == number).nonzero()[:, 0] for number in range(len(self.kinds))]
        images = [lattice.images(vectors[row], reach) for lattice, row in zip(self.kinds, rows, strict=True)]
        squares = []
        for image, row in zip(images, rows, strict=True):
            squares.append(torch.where(present[row][..., None], dot(image, image), FAR**2).flatten(1))
        most = max(1, *(int((square <= reach**2).sum(-1).max()) if square.numel() else 1 for square in squares))
        found = vectors.new_full((len(vectors), most, 3), FAR)
        counted = torch.zeros(len(vectors), most, dtype=torch.bool, device=vectors.device)
        for image, square, row in zip(images, squares, rows, strict=True):
            near, index = square.topk(min(most, square.shape[1]), -1, largest=False)
            found[row, : near.shape[1]] = image.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 3))
            counted[row, : near.shape[1]] = near <= reach**2
        return found, counted


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
        vectors: (A, N, 3) Å, from each node to each atom of its structure, or to its nearest image in a cell.
        cells: What repeats the structures, if anything does.
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
    cells: Cells | None = None

    @classmethod
    def from_observation(cls, observation: dict[str, Tensor], dtype: torch.dtype) -> Canvas:
        """Trim and list an observation; positions (B, C, 3) or flat (B, 3 C), numbers of any type.

        With `cell` (B, 9) and `pbc` (B, 3) in it, each atom is seen at its nearest periodic image.
        """
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
        vectors = positions[structure] - positions.reshape(-1, 3)[node][:, None]
        cells = None
        if "cell" in observation:
            cells = Cells.from_observation(observation["cell"], observation["pbc"])
            vectors = cells.nearest(vectors, structure)
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
            vectors=vectors,
            cells=cells,
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

    def surroundings(self, reach: float) -> tuple[Tensor, Tensor]:
        """Vectors (A, M, 3), Å, from each node to the atoms of its structure, itself included, and which count (A, M).

        In a cell they lead to all images up to `reach` Å, of which an atom may have several.
        """
        present = self.mask[self.structure]
        if self.cells is None:
            return self.vectors, present
        return self.cells.within(self.vectors, present, self.structure, reach)


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
