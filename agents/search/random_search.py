"""Random search: atoms anywhere in a sphere or a cell, or in symmetric orbits, relaxed."""

from __future__ import annotations

import numpy as np

from megen_gym.agents.search.common import atoms_of, require_moving
from megen_gym.agents.search.throwing import PACKING, thrown, thrown_symmetric
from megen_gym.arena.problem import Problem
from megen_gym.envs.vector import StructureVectorEnv
from megen_gym.errors import InputError
from megen_gym.structure import StructureBatch
from megen_gym.tasks.cluster import ClusterTask


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

    name = "random_search"

    def __init__(self, env: StructureVectorEnv, seed: int = 0, packing: float = PACKING) -> None:
        require_moving(env, self.name)
        if not 0 < packing <= 0.6:
            raise InputError(f"packing is {packing}; give a share above 0 and up to 0.6")
        self.packing = packing

    def search(self, problem: Problem) -> None:
        """Throw and relax until the budget is spent."""
        rng, number = np.random.default_rng(problem.seed), 0
        like = atoms_of(problem)
        while True:
            problem.judge(self._drawn(like, rng, problem.fixed))
            number += 1
            if problem.meter.goal is None:
                like = atoms_of(problem, number)

    def _drawn(self, like: StructureBatch, rng: np.random.Generator, fixed: int) -> StructureBatch:
        return thrown(like, rng, self.packing, fixed)


class SymmetricSearch(RandomSearch):
    """Random symmetric clusters, each relaxed: orbits of a random point group (C2 to C6, D2 to D6, C2v to C6v, T, O
    or I) in a sphere.

    Global minima are symmetric far more often than random structures are (Wales, Chem. Phys. Lett. 285, 330 (1998)).
    A point near an axis or a plane is moved onto it, and the relaxation starts a little beside the symmetric
    structure, so that it can leave it. Atoms that fit into no group are thrown without.

    Args:
        env: Clusters or molecules, whose task and reward are searched.
        seed: Not used: the problem has one.
        packing: Share of the sphere that the atoms' covalent spheres fill.

    Raises:
        InputError: as random search, or for an environment with a cell.
    """

    name = "symmetric_search"

    def __init__(self, env: StructureVectorEnv, seed: int = 0, packing: float = PACKING) -> None:
        super().__init__(env, seed, packing)
        if not isinstance(env.task, ClusterTask):
            raise InputError(
                f"{self.name} knows the symmetries of clusters and molecules, not of cells; give such an environment, "
                "or take random_search"
            )

    def _drawn(self, like: StructureBatch, rng: np.random.Generator, fixed: int) -> StructureBatch:
        return thrown_symmetric(like, rng, self.packing)
