"""Crystals as graphs of nearest neighbours in which equivalent atoms are one node.

Atoms whose surroundings look alike to a message-passing network stay alike in all of its layers, so that one of each
kind is enough: a perovskite of 5 atoms and 60 edges becomes 3 nodes and 6 edges, and a supercell the same graph as its
cell. The result is that of all atoms; distances within 0.001 Å of one another are taken to be equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from ase import Atoms
from tqdm import tqdm

from megen_gym.errors import InputError
from megen_gym.periodic import Lattice
from megen_gym.structure import FloatArray, IntArray

NEIGHBOURS = 12
"""Of each atom, as published."""

RADIUS = 8.0
"""Å up to which they are looked for."""

SHELL = 1e-3
"""Å; distances that differ by less can be one distance, and the neighbours at it one shell."""


@dataclass(frozen=True, eq=False)
class Graphs:
    """Graphs of B crystals, joined; nodes and edges of a crystal follow one another.

    Attributes:
        numbers: (V,) atomic number of each node.
        share: (V,) of the atoms of the crystal that the node stands for.
        centre, other: (W,) nodes of each edge, counted within the crystal.
        distance: (W,) Å.
        count: (W,) neighbours of the centre that the edge stands for; 12 in all, where there are so many.
        nodes, edges: (B,) of each crystal.
    """

    numbers: IntArray
    share: FloatArray
    centre: IntArray
    other: IntArray
    distance: FloatArray
    count: FloatArray
    nodes: IntArray
    edges: IntArray

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, rows: IntArray) -> Graphs:
        node, edge = _ragged(self.nodes, rows), _ragged(self.edges, rows)
        return Graphs(
            self.numbers[node], self.share[node], self.centre[edge], self.other[edge], self.distance[edge],
            self.count[edge], self.nodes[rows], self.edges[rows],
        )  # fmt: skip

    @classmethod
    def join(cls, parts: Sequence[Graphs]) -> Graphs:
        """One after the other."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    @property
    def structure(self) -> IntArray:
        """(V,) crystal of each node."""
        return np.repeat(np.arange(len(self)), self.nodes)

    @property
    def offset(self) -> IntArray:
        """(W,) number of the first node of each edge's crystal."""
        return np.repeat(np.cumsum(self.nodes) - self.nodes, self.edges)


def _ragged(lengths: IntArray, rows: IntArray) -> IntArray:
    """Places of the entries of `rows` where row b has lengths[b] entries, all in one array."""
    start, length = (np.cumsum(lengths) - lengths)[rows], lengths[rows]
    total = int(length.sum())
    return np.repeat(start - (np.cumsum(length) - length), length) + np.arange(total)


def graphs_of(structures: Sequence[Atoms], progress: bool = False) -> Graphs:
    """Graphs of periodic crystals.

    Raises:
        InputError: for a structure without atoms, without a cell, or whose atoms have no neighbour within 8 Å.
    """
    if not len(structures):
        raise InputError("no structures were given; give at least one crystal")
    shown = tqdm(structures, "graphs", unit="crystal", disable=not progress)
    return Graphs.join([graph_of(atoms) for atoms in shown])


def graph_of(atoms: Atoms) -> Graphs:
    """The graph of one crystal, see :func:`graphs_of`."""
    if not len(atoms):
        raise InputError("a structure has no atoms; leave it out")
    centre, other, distance, count = neighbours(atoms)
    if not len(centre):
        raise InputError(f"{atoms.get_chemical_formula()} has no neighbours within {RADIUS:g} Å; give a denser crystal")
    order = np.argsort(distance, kind="stable")
    label, ascending = np.empty(len(order), dtype=np.int64), distance[order]
    chain = np.cumsum(np.diff(ascending, prepend=ascending[0]) > SHELL)
    begin = ascending[np.unique(chain, return_index=True)[1]][chain]
    part = ((ascending - begin) / SHELL).astype(np.int64)
    label[order] = np.cumsum((np.diff(chain, prepend=0) > 0) | (np.diff(part, prepend=0) != 0))
    distance = (np.bincount(label, distance) / np.bincount(label))[label]
    kind = _kinds(atoms.numbers, centre, other, label, count)
    first = np.unique(kind, return_index=True)[1]
    mine = np.isin(centre, first)
    key = (kind[centre[mine]] * len(first) + kind[other[mine]]) * (label.max() + 1) + label[mine]
    _, where, back = np.unique(key, return_index=True, return_inverse=True)
    rows = np.flatnonzero(mine)[where]
    return Graphs(
        atoms.numbers[first].astype(np.int64),
        np.bincount(kind) / len(atoms),
        kind[centre[rows]],
        kind[other[rows]],
        distance[rows],
        np.bincount(back.reshape(-1), count[mine]).astype(np.float64),
        np.array([len(first)]),
        np.array([len(rows)]),
    )


def neighbours(atoms: Atoms) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
    """Atoms, neighbours, distances (Å) and weights of the 12 nearest neighbours within 8 Å.

    Neighbours at the same distance share the places that are left, so that the order of the atoms does not matter.
    """
    lattice = Lattice(atoms.cell[:], atoms.pbc)
    vectors = atoms.positions[None] - atoms.positions[:, None]
    distance = np.sqrt((lattice.images(lattice.minimum_image(vectors), RADIUS) ** 2).sum(-1))
    size, images = len(atoms), distance.shape[-1]
    distance = distance.reshape(size, -1)
    distance[(distance > RADIUS) | (distance < SHELL)] = np.inf
    kept = min(distance.shape[1], 5 * NEIGHBOURS)
    order = np.argpartition(distance, kept - 1, axis=1)[:, :kept] if kept < distance.shape[1] else None
    order = np.broadcast_to(np.arange(distance.shape[1]), distance.shape) if order is None else order
    near = np.take_along_axis(distance, order, 1)
    last = np.minimum(np.sort(near, 1)[:, min(NEIGHBOURS, kept) - 1, None], 2 * RADIUS)
    inside, shell = near < last - SHELL, np.isfinite(near) & (np.abs(near - last) <= SHELL)
    left = (NEIGHBOURS - inside.sum(1, keepdims=True)) / np.maximum(shell.sum(1, keepdims=True), 1)
    weight = np.where(inside & np.isfinite(near), 1.0, np.where(shell, left, 0.0))
    centre, place = np.nonzero(weight)
    return centre, order[centre, place] // images, near[centre, place], weight[centre, place]


def _kinds(numbers: IntArray, centre: IntArray, other: IntArray, label: IntArray, count: FloatArray) -> IntArray:
    """(N,) kind of each atom: equal for those that differ neither in element nor in the kinds at each distance."""
    kind = np.unique(numbers, return_inverse=True)[1].reshape(-1)
    while True:
        seen, edge = np.unique(label * len(numbers) + kind[other], return_inverse=True)
        around = np.zeros((len(numbers), len(seen) + 1))
        np.add.at(around, (centre, edge.reshape(-1)), count)
        around[:, -1] = kind
        finer = np.unique(around.round(6), axis=0, return_inverse=True)[1].reshape(-1)
        if finer.max() == kind.max():
            return kind
        kind = finer
