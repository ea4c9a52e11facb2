"""Atoms taken off a cluster, so that a policy can place them anew."""

from __future__ import annotations

import numpy as np

from megen_gym.structure import FloatArray, IntArray, StructureBatch
from megen_gym.tasks.cluster import ClusterState, ClusterTask

LOOSENESS = 0.5
"""Neighbours: an atom with one neighbour less is taken away e^2 times as often."""


def loosest(positions: FloatArray, count: int, rng: np.random.Generator) -> IntArray:
    """(count,) atoms of (n, 3) positions (Å), drawn without repetition, those with few neighbours first."""
    distances = np.linalg.norm(positions[:, None] - positions, axis=2)
    np.fill_diagonal(distances, np.inf)
    reach = 1.25 * np.median(distances.min(1))
    neighbours = (distances < reach).sum(1)
    weight = np.exp(-(neighbours - neighbours.min()) / LOOSENESS)
    return np.asarray(rng.choice(len(positions), size=count, replace=False, p=weight / weight.sum()))


def without(task: ClusterTask, structure: StructureBatch, taken: IntArray) -> ClusterState:
    """The canvas of one structure after atoms were taken away, centred, and a bag that holds them."""
    kept = np.delete(np.arange(int(structure.n_atoms[0])), taken)
    positions = np.zeros((1, task.canvas_size, 3))
    species = np.zeros((1, task.canvas_size), dtype=np.int64)
    remaining = structure.positions[0, kept]
    positions[0, : len(kept)] = remaining - remaining.mean(0)
    species[0, : len(kept)] = structure.species[0, kept]
    bag = np.bincount(structure.species[0, taken], minlength=len(task.symbols))[None]
    none, size = np.zeros(1, dtype=np.int64), np.array([len(kept)])
    return ClusterState(
        positions, species, size, size.copy(), bag, bag.copy(), none, none.copy(), np.zeros(1, dtype=bool)
    )
