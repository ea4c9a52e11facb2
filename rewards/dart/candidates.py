"""Gallium-like geometries to label: packings, growth by one atom, strained copies, gases.

Everything here proposes; nothing here knows an energy. The label of a structure comes from the calculator in
:mod:`megen_gym.rewards.dart.label`.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.morse import MorsePotential
from ase.optimize import FIRE
from numpy.typing import NDArray

BOND = 2.65  # Å, mean nearest-neighbour distance of small gallium clusters
CLOSEST = 2.3  # Å, shortest bond that a placement may make
WINDOW = 3.0  # Å, a placed atom has a second neighbour within this distance


def pack(rng: np.random.Generator, n: int) -> Atoms:
    """A random packing of `n` atoms, relaxed under a Morse potential of random range.

    The range parameter (3 soft ... 6 short-ranged) decides whether the outcome is open or compact, so that a data set
    built from many packings holds both.
    """
    radius = BOND * (n / 4.0) ** (1.0 / 3.0)
    atoms = Atoms(f"Ga{n}", positions=rng.normal(size=(n, 3)) * radius * 0.8)
    atoms.calc = MorsePotential(epsilon=0.5, r0=BOND + 0.1, rho0=rng.uniform(3.0, 6.0), rcut1=2.5, rcut2=3.5)
    FIRE(atoms, logfile=None, maxstep=0.2).run(fmax=0.05, steps=200)
    return Atoms(atoms.symbols, atoms.positions)


def place(
    rng: np.random.Generator, positions: NDArray[np.float64], choices: int = 1, tries: int = 4000
) -> NDArray[np.float64]:
    """A point that bonds to the cluster: first neighbour beyond 2.3 Å, second within 3.0 Å (one atom: within 3.0 Å).

    Of `choices` such points it is the one with the shortest mean distance to the cluster, so that more choices make
    more compact clusters.

    Raises:
        ValueError: when `tries` random points hold no such place.
    """
    focus = positions[rng.integers(len(positions), size=tries)]
    direction = rng.normal(size=(tries, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    points = focus + direction * rng.uniform(CLOSEST, WINDOW, size=(tries, 1))
    distances = np.sort(np.linalg.norm(points[:, None] - positions[None], axis=-1), axis=1)
    second = distances[:, min(1, len(positions) - 1)]
    good = np.flatnonzero((distances[:, 0] >= CLOSEST) & (second <= WINDOW))
    if not len(good):
        raise ValueError(f"no free place found around {len(positions)} atoms in {tries} tries; give a looser cluster")
    picked = good[[int(rng.choice(len(good))) for _ in range(choices)]]
    best: NDArray[np.float64] = points[picked[distances[picked].mean(axis=1).argmin()]]
    return best


def grow(rng: np.random.Generator, atoms: Atoms, choices: int = 1) -> Atoms:
    """`atoms` with one more atom at a random bonding place; see :func:`place` for `choices`."""
    return Atoms(f"Ga{len(atoms) + 1}", positions=np.vstack([atoms.positions, place(rng, atoms.positions, choices)]))


def build(rng: np.random.Generator, n: int, choices: int = 1) -> Atoms:
    """`n` atoms placed one after the other without relaxation: what an agent makes."""
    atoms = Atoms("Ga", positions=np.zeros((1, 3)))
    while len(atoms) < n:
        atoms = grow(rng, atoms, choices)
    return atoms


def strain(rng: np.random.Generator, atoms: Atoms) -> Atoms:
    """A compressed or stretched copy, scaled by 0.78 to 1.3."""
    return Atoms(atoms.symbols, atoms.positions * rng.uniform(0.78, 1.3))


def rattle(rng: np.random.Generator, atoms: Atoms) -> Atoms:
    """A copy with Gaussian displacements of 0.05 to 0.35 Å per coordinate."""
    sigma = rng.uniform(0.05, 0.35)
    return Atoms(atoms.symbols, atoms.positions + rng.normal(scale=sigma, size=(len(atoms), 3)))


def overlap(rng: np.random.Generator, atoms: Atoms) -> Atoms:
    """`atoms` with one more atom only 1.6 to 2.3 Å from another: what a careless placement makes."""
    focus = atoms.positions[rng.integers(len(atoms))]
    direction = rng.normal(size=3)
    point = focus + direction / np.linalg.norm(direction) * rng.uniform(1.6, CLOSEST)
    return Atoms(f"Ga{len(atoms) + 1}", positions=np.vstack([atoms.positions, point]))


def gas(rng: np.random.Generator, n: int) -> Atoms:
    """`n` atoms at random, none closer than 2.1 Å, most of them unbound."""
    positions = np.zeros((1, 3))
    radius = rng.uniform(2.6, 4.5) * n ** (1.0 / 3.0)
    while len(positions) < n:
        point = rng.uniform(-radius, radius, size=3)
        if np.linalg.norm(positions - point, axis=1).min() > 2.1:
            positions = np.vstack([positions, point])
    return Atoms(f"Ga{n}", positions=positions)
