"""The mean structure of a data set up to the numbering of the atoms, and random structures drawn about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from megen_gym.agents.cryingan.symmetry import Symmetry
from megen_gym.agents.cryingan.system import System
from megen_gym.structure import FloatArray, IntArray

SAMPLE = 200
"""Structures that the anchors are found from; all of them give the statistics."""


@dataclass(frozen=True, eq=False)
class Sites:
    """N anchors, one for each atom of a structure, and how the data are spread about them.

    The displacements of a structure are drawn as ``spread * exp(a) * (modes m + rest x)`` with normal numbers a (of
    mean and deviation `amplitude`), m and x: collective motions as in a harmonic crystal, noise, and a degree of
    disorder that differs between structures.

    Attributes:
        anchors: (N, 3) Å.
        occupancy: (E, N) share of the structures that have element e at anchor m; columns sum to 1, rows to the counts.
        spread: (N, 3) Å, standard deviation of the atom at each anchor along x, y, z.
        modes: (3 N, R) collective displacements in units of the spread.
        rest: (3 N,) what is left of the spread.
        amplitude: (2,) mean and deviation of the logarithm of a structure's displacement in units of the spread.
    """

    anchors: FloatArray
    occupancy: FloatArray
    spread: FloatArray
    modes: FloatArray
    rest: FloatArray
    amplitude: FloatArray


def match(system: System, fractions: FloatArray, iterations: int = 5) -> tuple[FloatArray, IntArray, FloatArray]:
    """The barycentre of structures that are equal when their atoms are exchanged or moved by lattice vectors.

    Each structure's atoms are matched to the anchors (least sum of squared minimum-image distances, whatever the
    elements), the anchors move to the mean of what was matched to them, and so on. In a crystal with chemical disorder
    they become its lattice sites; in a glass, a mean packing.

    Args:
        system: Cell and elements.
        fractions: (B, N, 3) grouped.
        iterations: Rounds of matching.

    Returns:
        The anchors (N, 3) in Å, the atom (B, N) of each structure at each anchor, and its displacement (B, N, 3) in Å.
    """
    lattice, positions = system.lattice, system.lattice.cartesian(fractions)
    anchors = positions[0].copy()
    for step in range(iterations + 1):
        few = positions if step == iterations else positions[:: max(1, len(positions) // SAMPLE)]
        matched, moved = np.empty(few.shape[:2], dtype=np.int64), np.empty(few.shape)
        for row, structure in enumerate(few):
            vectors = lattice.minimum_image(structure - anchors[:, None])
            matched[row] = linear_sum_assignment((vectors**2).sum(-1))[1]
            moved[row] = vectors[np.arange(len(anchors)), matched[row]]
        shift = moved.mean(0)
        anchors = anchors + shift
    return anchors, matched, moved - shift


def occupancies(system: System, matched: IntArray) -> FloatArray:
    """(E, N) share of the structures (B, N) that have each element at each anchor."""
    element = np.repeat(np.arange(len(system.counts)), system.counts)[matched]
    return np.stack([(element == e).mean(0) for e in range(len(system.counts))])


def statistics(
    system: System, anchors: FloatArray, occupancy: FloatArray, moved: FloatArray, symmetry: Symmetry
) -> Sites:
    """Spread, collective modes and amplitude of the displacements (B, N, 3), averaged over the symmetry.

    Modes are the eigenvectors of the correlation matrix whose eigenvalue is above what noise alone gives, (1 + sqrt(3
    N / B))² (Marchenko & Pastur, 1967).
    """
    lattice, size, width = system.lattice, len(moved), anchors.size
    here, inverse = lattice.fractional(anchors), np.linalg.inv(lattice.cell)
    images = [
        (lattice.cartesian(here @ w.T + t), inverse @ w.T @ lattice.cell, target)
        for w, t, target in zip(symmetry.rotations, symmetry.translations, symmetry.sites, strict=True)
    ]
    mean, share = np.zeros_like(anchors), np.zeros_like(occupancy)
    for places, _, target in images:
        mean[target] += lattice.minimum_image(places - anchors[target]) / len(images)
        share[:, target] += occupancy / len(images)
    mean += anchors

    def displacements() -> Iterator[FloatArray]:
        for places, turn, target in images:
            result = np.empty_like(moved)
            result[:, target] = moved @ turn + lattice.minimum_image(places - mean[target])
            yield result.reshape(size, width)

    spread = np.sqrt(sum((part**2).mean(0) for part in displacements()) / len(images))
    spread = np.maximum(spread, 1e-4)
    correlation, logs = np.zeros((width, width)), []
    for part in displacements():
        scaled = part / spread
        amplitude = np.sqrt((scaled**2).mean(1, keepdims=True)).clip(1e-6)
        correlation += (scaled / amplitude).T @ (scaled / amplitude) / (size * len(images))
        logs.append(np.log(amplitude[:, 0]))
    values, vectors = np.linalg.eigh(correlation)
    kept = values > (1 + np.sqrt(width / size)) ** 2
    modes = vectors[:, kept] * np.sqrt(values[kept])
    rest = np.sqrt(np.clip(1 - (modes**2).sum(1), 0.02, None))
    known = np.array([np.mean(logs), np.std(logs)])
    return Sites(mean, share, spread.reshape(-1, 3), modes, rest, known)


class Occupation(torch.nn.Module):
    """Which element sits at which anchor: random, with the counts exact and the occupancies as in the data.

    Element after element, the n of its atoms take the n free anchors of largest logit(p) + logistic noise, where p is
    the chance that the anchor holds this element rather than a later one: Pareto sampling (Rosén, J. Stat. Plan.
    Inference 62, 159 (1997)), a fixed number of draws whose
    probabilities are nearly the wanted ones (within 0.01 for 54 sites, 0.07 for 6).
    """

    logits: Tensor

    def __init__(self, occupancy: FloatArray, counts: tuple[int, ...]) -> None:
        super().__init__()
        self.counts = counts
        later = occupancy[::-1].cumsum(0)[::-1]
        chance = np.clip(occupancy / np.maximum(later, 1e-9), 1e-6, 1 - 1e-6)[:-1]
        self.register_buffer(
            "logits", torch.tensor(np.log(chance / (1 - chance)), dtype=torch.float32), persistent=False
        )

    def forward(self, z: Tensor) -> Tensor:
        """(N, B) element of each anchor from independent standard normal numbers (N, B, E - 1)."""
        element = torch.full(z.shape[:2], len(self.counts) - 1, dtype=torch.long, device=z.device)
        free = torch.zeros(z.shape[:2], dtype=z.dtype, device=z.device)
        for index, count in enumerate(self.counts[:-1]):
            noise = torch.logit(torch.special.ndtr(z[..., index]), eps=1e-7)
            score = noise + self.logits[index][:, None] + free
            chosen = score.topk(count, 0).indices
            element.scatter_(0, chosen, index)
            free.scatter_(0, chosen, -1e9)
        return element
