"""Random search: atoms anywhere in a sphere or a cell, relaxed."""

from __future__ import annotations

import numpy as np
from ase.data import atomic_numbers, covalent_radii

from megen_gym.agents.search.common import require_moving, starting_structure
from megen_gym.arena.problem import Problem
from megen_gym.envs.vector import StructureVectorEnv
from megen_gym.errors import InputError
from megen_gym.periodic import Lattice
from megen_gym.structure import StructureBatch


class RandomSearch:
    """Random structures, each relaxed (Pickard and Needs, J. Phys.: Condens. Matter 23, 053201 (2011)): all atoms
    uniform in a sphere, or in the cell of the environment, no two of them on top of each other.

    ``random`` grows structures by valid placements instead, which starts nearer to something.

    Args:
        env: Whose task and reward are searched.
        seed: Not used: the problem has one.
        packing: Share of the sphere that the atoms' covalent spheres fill.

    Raises:
        InputError: as basin hopping, or for a packing outside (0, 0.6].
    """

    def __init__(self, env: StructureVectorEnv, seed: int = 0, packing: float = 0.3) -> None:
        require_moving(env, "random_search")
        if not 0 < packing <= 0.6:
            raise InputError(f"packing is {packing}; give a share above 0 and up to 0.6")
        self.packing = packing

    def search(self, problem: Problem) -> None:
        """Throw and relax until the budget is spent."""
        rng, number = np.random.default_rng(problem.seed), 0
        while True:
            drawn = self._thrown(starting_structure(problem, number), rng, problem.fixed)
            problem.judge(drawn)
            number += 1

    def _thrown(self, like: StructureBatch, rng: np.random.Generator, fixed: int = 0) -> StructureBatch:
        """The atoms of a structure somewhere else, but for the first ones that are fixed."""
        lattice = None if like.cell is None else Lattice(like.cell[0], like.pbc)
        radii = np.array([0.0, *(covalent_radii[atomic_numbers[name]] for name in like.symbols[1:])])[like.species[0]]
        extent = (np.sum(radii**3) / self.packing) ** (1 / 3)
        points = like.positions[0, :fixed]
        for index in range(fixed, len(radii)):
            apart = radii[:index] + radii[index]
            for attempt in range(200):
                if lattice is None:
                    draft = rng.normal(size=3)
                    draft *= extent * rng.random() ** (1 / 3) / np.linalg.norm(draft)
                else:
                    draft = rng.random(3) @ lattice.cell
                share = 0.8 * 0.99**attempt
                away = points - draft if lattice is None else lattice.minimum_image(points - draft)
                if (np.linalg.norm(away, axis=1) >= share * apart).all():
                    break
            points = np.concatenate([points, draft[None]])
        return StructureBatch.trusted(points[None], like.species, like.symbols, like.cell, like.pbc)
