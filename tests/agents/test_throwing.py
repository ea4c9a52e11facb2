"""Structures out of nothing, and the searches that relax them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from megen_gym.agents.registry import make_policy
from megen_gym.agents.search import throwing
from megen_gym.agents.search.throwing import GROUPS, SHAKE, thrown, thrown_symmetric
from megen_gym.arena.playing import enter
from megen_gym.arena.problem import Problem
from megen_gym.errors import InputError
from megen_gym.point_groups import point_group
from megen_gym.structure import StructureBatch


def atoms(counts: dict[str, int]) -> StructureBatch:
    species = np.repeat(np.arange(1, len(counts) + 1), list(counts.values()))[None]
    return StructureBatch.trusted(np.zeros((*species.shape, 3)), species, ("X", *counts))


def asymmetry(positions: np.ndarray, group: np.ndarray) -> float:
    """Å, largest distance from an image of an atom to the nearest atom."""
    images = np.einsum("gij,nj->gni", group, positions)
    return float(np.linalg.norm(images[:, :, None] - positions, axis=3).min(2).max())


@pytest.mark.parametrize("counts", [{"Ga": 18}, {"Ar": 38}, {"Au": 13}, {"Cu": 6, "Au": 8}, {"Cu": 6, "O": 6, "Fe": 6}])
def test_atoms_stand_in_orbits_of_a_group_and_apart(counts: dict[str, int]) -> None:
    like, rng, symmetric = atoms(counts), np.random.default_rng(0), 0
    radii = throwing.radii_of(like)
    for _ in range(20):
        drawn = thrown_symmetric(like, rng)
        assert sorted(drawn.species[0]) == sorted(like.species[0])
        positions = drawn.positions[0]
        away = np.linalg.norm(positions[:, None] - positions, axis=2) + 99 * np.eye(len(positions))
        assert (away >= 0.8 * (radii[:, None] + radii) - 10 * SHAKE).all()
        symmetric += any(asymmetry(positions, point_group(name)) < 12 * SHAKE for name in GROUPS)
    assert symmetric == 20


@pytest.mark.parametrize("counts", [{"Cu": 6, "Au": 8}, {"Cu": 6, "Fe": 6}])
def test_elements_stand_in_orbits_of_their_own(counts: dict[str, int]) -> None:
    """Copper and iron have the same covalent radius."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        drawn = thrown_symmetric(atoms(counts), rng)
        groups = [
            name for name in GROUPS
            if all(asymmetry(drawn.positions[0, drawn.species[0] == kind], point_group(name)) < 0.06 for kind in (1, 2))
        ]  # fmt: skip
        assert groups


def test_small_orbits_come_up() -> None:
    """A truncated octahedron of 38 atoms needs orbits of 24, 8 and 6 under O, two of them on axes."""
    rng, found = np.random.default_rng(0), set()
    images, distinct = throwing._orbits(throwing._in_sphere(rng, 400, 5.0), point_group("O"), 1.06)
    found |= set(distinct.sum(1).tolist())
    assert {0, 6, 8, 12, 24} <= found
    assert images.shape == (400, 24, 3)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
def test_few_atoms_are_thrown_too(count: int) -> None:
    drawn = thrown_symmetric(atoms({"Ga": count}), np.random.default_rng(count))
    assert drawn.positions.shape == (1, count, 3)
    assert np.isfinite(drawn.positions).all()


def test_what_fits_into_no_group_is_thrown_without() -> None:
    drawn = thrown_symmetric(atoms({"Ga": 11}), np.random.default_rng(0), tries=0)
    assert drawn.positions.shape == (1, 11, 3)
    assert all(asymmetry(drawn.positions[0], point_group(name)) > 0.1 for name in GROUPS)


def test_symmetry_is_more_than_chance() -> None:
    drawn = thrown(atoms({"Ar": 13}), np.random.default_rng(0))
    assert all(asymmetry(drawn.positions[0], point_group(name)) > 0.1 for name in GROUPS)


def searched(name: str, env: str, arguments: dict[str, Any], budget: int, **options: Any) -> Problem:
    problem = Problem.make(env, arguments, budget=budget, seed=0)
    enter(make_policy(name, problem.env(1), seed=0, **options), problem)
    return problem


@pytest.mark.parametrize("name", ["random_search", "symmetric_search"])
def test_a_seed_decides_and_the_budget_is_kept(name: str) -> None:
    runs = [searched(name, "LJCluster-v0", {"n": 8}, 150) for _ in range(2)]
    assert [found.value for found in runs[0].found] == [found.value for found in runs[1].found]
    assert runs[0].meter.used == 150


def test_symmetric_structures_find_seven_atoms_soon() -> None:
    hit = searched("symmetric_search", "LJCluster-v0", {"n": 7}, 600).meter.hit
    assert hit is not None


def test_compositions_that_differ_are_drawn_anew() -> None:
    found = searched("symmetric_search", "LJCluster-v0", {"formula": "Ar", "size_range": (4, 6)}, 400).found
    assert len({len(one.species) for one in found}) > 1


def test_cells_are_refused_with_a_way_out() -> None:
    slots = {"template": "rocksalt", "reward": "lj", "free": "positions"}
    with pytest.raises(InputError, match="take random_search"):
        searched("symmetric_search", "CrystalSlots-v0", slots, 10)


@pytest.mark.parametrize("packing", [0.0, 0.7, float("nan")])
def test_wrong_packings_are_refused(packing: float) -> None:
    with pytest.raises(InputError, match="packing"):
        searched("symmetric_search", "LJCluster-v0", {"n": 7}, 10, packing=packing)


@pytest.mark.slow
def test_the_truncated_octahedron_is_found() -> None:
    """LJ38, a piece of an fcc crystal among icosahedra, which hopping searches miss for half a million evaluations."""
    problem = searched("symmetric_search", "LJCluster-v0", {"n": 38}, 60_000)
    assert problem.meter.hit is not None
