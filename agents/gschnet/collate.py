"""From molecules and building orders to batches of steps; array operations only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from megen_gym.agents.gschnet.steps import Canvas, Pairs, Steps
from megen_gym.agents.gschnet.trajectories import Trajectories
from megen_gym.periodic import Lattice
from megen_gym.structure import FloatArray, IntArray


@dataclass(frozen=True)
class Reach:
    """How far the network looks.

    Attributes:
        model: Å, atoms nearer than this exchange messages.
        prediction: Å, atoms nearer to the focus than this decide.
        origin: Whether there is an origin token at the centre of mass; periodic structures have none.
        origin_type: Atomic number that stands for it.
    """

    model: float
    prediction: float
    origin: bool = True
    origin_type: int = 121


def draw_steps(length: IntArray, most: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Molecule (S,) and step (S,): all steps of each molecule, or `most` random ones without replacement."""
    width = int(length.max())
    exists = np.arange(width) < length[:, None]
    if most and most < width:
        rank = np.where(exists, rng.random(exists.shape), 2.0).argsort(1).argsort(1)
        exists &= rank < most
    molecule, step = np.nonzero(exists)
    return molecule, step


def packed(
    positions: FloatArray,
    numbers: IntArray,
    molecule: IntArray,
    placed: IntArray,
    focus: IntArray,
    reach: Reach,
    lattices: list[Lattice] | None = None,
    pairs: Pairs | None = None,
) -> Canvas:
    """Canvases as packed rows.

    Args:
        positions: (B, K, 3) Å of the nodes; node 0 is the origin token.
        numbers: (B, K) atomic numbers of the nodes.
        molecule: (S,) ascending.
        placed: (S,) atoms on the canvas.
        focus: (S,) node of the focus.
        reach: Cut-offs.
        lattices: Of each molecule, where periodic.
        pairs: See :func:`pairs_of`.
    """
    slot = np.arange(len(molecule)) - np.searchsorted(molecule, molecule)
    count = placed + 1
    offset = np.cumsum(count) - count
    row_canvas = np.repeat(np.arange(len(molecule)), count)
    row_node = np.arange(len(row_canvas)) - offset[row_canvas]
    row_molecule = molecule[row_canvas]
    relative: FloatArray = positions[row_molecule, row_node] - positions[molecule, focus][row_canvas]
    seen: IntArray
    if lattices is None:
        seen = np.flatnonzero(((relative**2).sum(1) <= reach.prediction**2) | (row_node == 0))
        around = relative[seen]
    else:
        seen, around = imaged(relative, row_molecule, lattices, reach.prediction)
    kept = (row_node[seen] > 0) | (placed[row_canvas[seen]] == 0) | reach.origin
    seen, around = seen[kept], around[kept]
    tokens = np.arange(len(molecule))
    place = np.concatenate([np.zeros((len(molecule), 3)), around]).astype(np.float32)
    return Canvas(
        species=torch.from_numpy(numbers),
        molecule=torch.from_numpy(molecule),
        slot=torch.from_numpy(slot),
        row_canvas=torch.from_numpy(row_canvas),
        row_node=torch.from_numpy(row_node),
        focus_row=torch.from_numpy(offset + focus),
        seen_canvas=torch.from_numpy(np.concatenate([tokens, row_canvas[seen]])),
        seen_row=torch.from_numpy(np.concatenate([tokens, len(molecule) + seen])),
        place=torch.from_numpy(place),
        slots=int(slot.max()) + 1,
        pairs=pairs,
    )


def pairs_of(positions: FloatArray, n_nodes: IntArray, reach: Reach, lattices: list[Lattice] | None = None) -> Pairs:
    """Distances between the nodes (B, K, 3), of which (B,) are there, origin included; in cells also to own images."""
    size, width = positions.shape[:2]
    upper = np.arange(width)[:, None] < np.arange(width)
    own = np.eye(width, dtype=bool) & (lattices is not None) & (np.arange(width) > 0)
    exists = (upper | own) & (np.arange(width) < n_nodes[:, None])[:, None, :]
    if not reach.origin:
        exists[:, 0] = False
    b, i, j = np.nonzero(exists)
    pair = np.full((size, width, width), len(b))
    pair[b, i, j] = pair[b, j, i] = np.arange(len(b))
    vectors = positions[b, i] - positions[b, j]
    if lattices is None:
        return Pairs(torch.from_numpy(pair), torch.from_numpy(np.sqrt((vectors**2).sum(1)).astype(np.float32)))
    every, which = [], []
    for molecule in np.unique(b):
        mine = np.flatnonzero(b == molecule)
        distance = np.sqrt((lattices[molecule].images(vectors[mine], reach.model) ** 2).sum(-1))
        distance[i[mine] == j[mine], 0] = np.inf  # an atom is no image of itself
        row, column = np.nonzero(distance < reach.model)
        every.append(distance[row, column])
        which.append(mine[row])
    distances = np.concatenate(every or [np.zeros(0)]).astype(np.float32)
    images = np.concatenate(which or [np.zeros(0, dtype=np.int64)])
    return Pairs(torch.from_numpy(pair), torch.from_numpy(distances), torch.from_numpy(images))


def imaged(
    vectors: FloatArray, molecule: IntArray, lattices: Sequence[Lattice], reach: float
) -> tuple[IntArray, FloatArray]:
    """All periodic images (I, 3) of vectors (V, 3) that are not longer than `reach`, and whose they are (I,)."""
    whose, images = [np.zeros(0, dtype=np.int64)], [np.zeros((0, 3))]
    for index in np.unique(molecule):
        mine = np.flatnonzero(molecule == index)
        every = lattices[index].images(vectors[mine], reach)
        row, image = np.nonzero((every**2).sum(-1) <= reach**2)
        whose.append(mine[row])
        images.append(every[row, image])
    return np.concatenate(whose), np.concatenate(images)


def folded(vectors: FloatArray, molecule: IntArray, lattices: list[Lattice]) -> FloatArray:
    """The shortest images of vectors (V, 3) that belong to molecules (V,)."""
    short = vectors.copy()
    for index in np.unique(molecule):
        mine = molecule == index
        short[mine] = lattices[index].minimum_image(vectors[mine])
    return short


def collate(
    positions: FloatArray,
    numbers: IntArray,
    n_atoms: IntArray,
    trajectories: Trajectories,
    chosen: tuple[IntArray, IntArray],
    reach: Reach,
    lattices: list[Lattice] | None = None,
    noise: FloatArray | None = None,
) -> Steps:
    """The chosen steps of B molecules.

    Args:
        positions: (B, N, 3) Å, the origin at the centre of mass.
        numbers: (B, N).
        n_atoms: (B,).
        trajectories: Of the same molecules.
        chosen: Molecule (S,) and step (S,), see :func:`draw_steps`.
        reach: Cut-offs.
        lattices: Of each molecule, where periodic.
        noise: (B, N, 3) Å by which atoms on the canvas are off; what is placed next is not.
    """
    width = int(n_atoms.max())
    order = trajectories.order[:, :width, None]
    exists = np.arange(width) < n_atoms[:, None]
    size = len(positions)
    clean = np.zeros((size, width + 1, 3))
    clean[:, 1:] = np.take_along_axis(positions, order, 1) * exists[..., None]
    kinds = np.zeros((size, width + 1), dtype=np.int64)
    kinds[:, 0] = reach.origin_type
    kinds[:, 1:] = np.take_along_axis(numbers, order[..., 0], 1) * exists
    if not reach.origin:
        clean[:, 0] = clean[:, 1]
    seen = clean
    if noise is not None:
        seen = clean.copy()
        seen[:, 1:] += np.take_along_axis(noise, order, 1) * exists[..., None]
    molecule, step = chosen
    focus, placed = trajectories.focus[molecule, step], trajectories.placed[molecule, step]
    places = trajectories.places[molecule, step]
    pairs = pairs_of(seen, n_atoms + 1, reach, lattices)
    canvas = packed(seen, kinds, molecule, placed, focus, reach, lattices, pairs)
    new = np.minimum(placed + 1, width)
    goal: FloatArray = clean[molecule, new] - seen[molecule, focus]
    if lattices is not None:
        goal = folded(goal, molecule, lattices)
    row_canvas = canvas.seen_canvas.numpy()
    target_row = np.flatnonzero(places[row_canvas])
    distance = np.sqrt(((goal[row_canvas[target_row]] - canvas.place.numpy()[target_row]) ** 2).sum(1))
    return Steps(
        canvas,
        torch.from_numpy(np.where(places, kinds[molecule, new], 0)),
        torch.from_numpy(target_row),
        torch.from_numpy(distance.astype(np.float32)),
        torch.from_numpy(goal.astype(np.float32)),
    )
