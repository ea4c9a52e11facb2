"""Structures out of nothing: atoms thrown into a sphere or a cell, one after another or in symmetric orbits."""

from __future__ import annotations

import numpy as np
from ase.data import atomic_numbers, covalent_radii

from megen_gym.periodic import Lattice
from megen_gym.point_groups import point_group
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch

PACKING = 0.3
"""Share of the sphere that the atoms' covalent spheres fill."""

APART = 0.8
"""Of the sum of the covalent radii; two atoms are at least so far apart."""

SNAP = 0.5
"""Of the sum of the covalent radii; an atom nearer than this to its own images moves onto the element of symmetry."""

SHAKE = 0.005
"""Å, standard deviation; breaks the symmetry, so that a relaxation can leave a saddle point."""

GROUPS = (
    *(f"{kind[0]}{order}{kind[1:]}" for order in range(2, 7) for kind in ("C", "D", "Cv")),
    "T",
    "O",
    "I",
)
"""Point groups that are drawn, each as often; those with more operations come out by their orbits."""

DRAWN = 48
"""Points drawn at once."""

ROUNDS = 4
"""Times that points are drawn before another group is."""


def radii_of(like: StructureBatch) -> FloatArray:
    """(N,) Å, covalent radii of the atoms of one structure."""
    each = np.array([0.0, *(covalent_radii[atomic_numbers[name]] for name in like.symbols[1:])])
    return np.asarray(each[like.species[0]])


def thrown(like: StructureBatch, rng: np.random.Generator, packing: float = PACKING, fixed: int = 0) -> StructureBatch:
    """The atoms of a structure somewhere else: uniform in a sphere, or in its cell, no two on top of each other.

    Args:
        like: One structure, with the atoms and the cell.
        rng: Source of what is random.
        packing: Share of the sphere that the atoms' covalent spheres fill.
        fixed: Atoms that stay, the first ones.
    """
    lattice = None if like.cell is None else Lattice(like.cell[0], like.pbc)
    radii = radii_of(like)
    extent = _extent(radii, packing)
    points = like.positions[0, :fixed]
    for index in range(fixed, len(radii)):
        apart = radii[:index] + radii[index]
        for attempt in range(200):
            draft = _in_sphere(rng, 1, extent)[0] if lattice is None else rng.random(3) @ lattice.cell
            share = APART * 0.99**attempt
            away = points - draft if lattice is None else lattice.minimum_image(points - draft)
            if (np.linalg.norm(away, axis=1) >= share * apart).all():
                break
        points = np.concatenate([points, draft[None]])
    return StructureBatch.trusted(points[None], like.species, like.symbols, like.cell, like.pbc)


def thrown_symmetric(
    like: StructureBatch, rng: np.random.Generator, packing: float = PACKING, tries: int = 30
) -> StructureBatch:
    """The atoms of a cluster in orbits of a random point group (:data:`GROUPS`), in a sphere.

    Global minima are symmetric far more often than random structures are (Wales, Chem. Phys. Lett. 285, 330 (1998));
    searches from symmetric structures use it (Pickard and Needs, J. Phys.: Condens. Matter 23, 053201 (2011); Lv et
    al., J. Chem. Phys. 137, 084104 (2012)). A point near an axis or a plane moves onto it, so that small
    orbits come up as well.

    Args:
        like: One structure without a cell, with the atoms.
        rng: Source of what is random.
        packing: Share of the sphere that the atoms' covalent spheres fill.
        tries: Groups that are tried; where the atoms fit into none, they are thrown without symmetry.
    """
    radii = radii_of(like)
    extent = _extent(radii, packing)
    order = np.argsort(like.species[0], kind="stable")
    for _ in range(tries):
        points = _filled(point_group(str(rng.choice(GROUPS))), like.species[0, order], radii[order], extent, rng)
        if points is not None:
            points = points + rng.normal(scale=SHAKE, size=points.shape)
            return StructureBatch.trusted(points[None], like.species[:, order], like.symbols)
    return thrown(like, rng, packing)


def _extent(radii: FloatArray, packing: float) -> float:
    return float((np.sum(radii**3) / packing) ** (1 / 3))


def _in_sphere(rng: np.random.Generator, count: int, extent: float) -> FloatArray:
    """(count, 3) points, uniform in a sphere."""
    points = rng.normal(size=(count, 3))
    points *= extent * rng.random((count, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True)
    return points


def _filled(
    group: FloatArray, species: IntArray, radii: FloatArray, extent: float, rng: np.random.Generator
) -> FloatArray | None:
    """(N, 3) Å, orbits of as many atoms as there are of each of the (N,) sorted species; None where they do not fit."""
    points = np.zeros((0, 3))
    for kind in np.unique(species):
        radius = radii[species == kind][0]
        wanted = len(points) + int((species == kind).sum())
        for _ in range(ROUNDS):
            images, distinct = _orbits(_in_sphere(rng, DRAWN, extent), group, radius)
            for row in np.flatnonzero(distinct.any(1)):
                orbit = images[row, distinct[row]]
                if len(points) + len(orbit) > wanted:
                    continue
                away = np.linalg.norm(points[:, None] - orbit, axis=2)
                if (away >= APART * (radii[: len(points), None] + radius)).all():
                    points = np.concatenate([points, orbit])
                if len(points) == wanted:
                    break
            if len(points) == wanted:
                break
        if len(points) < wanted:
            return None
    return points


def _orbits(points: FloatArray, group: FloatArray, radius: float) -> tuple[FloatArray, BoolArray]:
    """Images (K, G, 3) of points (K, 3), and (K, G) which of them make up the orbit: none where two come too near."""
    for _ in range(3):
        images = np.einsum("gij,kj->kgi", group, points)
        near = np.linalg.norm(images - points[:, None], axis=2) < SNAP * 2 * radius
        points = (images * near[..., None]).sum(1) / near.sum(1, keepdims=True)
    images = np.einsum("gij,kj->kgi", group, points)
    apart = np.linalg.norm(images[:, :, None] - images[:, None], axis=3)
    same = apart < 1e-6
    first: IntArray = same.argmax(2)
    distinct = first == np.arange(len(group))
    clear = (same | (apart >= APART * 2 * radius)).all((1, 2))
    return images, distinct & clear[:, None]
