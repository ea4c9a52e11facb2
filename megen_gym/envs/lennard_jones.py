"""LJCluster-v0: clusters whose lowest energies are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megen_gym.envs.clusters import Formula, cluster
from megen_gym.envs.single import KeywordEnv
from megen_gym.envs.vector import KeywordVectorEnv
from megen_gym.errors import InputError
from megen_gym.rewards.base import Reward
from megen_gym.rewards.lennard_jones import SIGMA
from megen_gym.rules import Window, is_number
from megen_gym.tasks.base import Task

DISTANCES = (1.0, 1.3)
"""In sigma; neighbours in the lowest minima of 2 to 38 atoms are 1.07 to 1.15 sigma apart."""

GUARDS = (0.9, 1.4)
WINDOWS = ((1.0, 1.3), (1.0, 1.4), (1.0, 1.6))


def lennard_jones(
    n: int | None = 13,
    *,
    formula: Formula | None = None,
    sigma: float = SIGMA,
    epsilon: float = 1.0,
    symbols: Sequence[str] | str | None = None,
    distance_range: Sequence[float] | None = None,
    min_distance: float | None = None,
    max_distance: float | None = None,
    windows: Sequence[Window] | None = None,
    reward: str = "lennard_jones",
    reward_kwargs: dict[str, Any] | None = None,
    **kwargs: Any,
) -> tuple[Task[Any], Reward]:
    """Task and reward of LJCluster-v0; see :class:`LJClusterEnv` for the arguments."""
    if not is_number(sigma) or not sigma > 0:
        raise InputError(f"sigma is {sigma!r}; give a length in Å, e.g. {SIGMA}")
    if formula is None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise InputError(f"n is {n!r}; give the number of atoms of the final cluster, at least 1, or a formula")
        formula = f"Ar{n}"
    if reward == "lennard_jones":
        reward_kwargs = {"sigma": sigma, "epsilon": epsilon, **(reward_kwargs or {})}
    scaled = [tuple(round(sigma * end, 4) for end in window) for window in (DISTANCES, GUARDS, *WINDOWS)]
    return cluster(
        formula,
        symbols=symbols,
        distance_range=scaled[0] if distance_range is None else distance_range,
        min_distance=scaled[1][0] if min_distance is None else min_distance,
        max_distance=scaled[1][1] if max_distance is None else max_distance,
        windows=scaled[2:] if windows is None else windows,  # type: ignore[arg-type]
        reward=reward,
        reward_kwargs=reward_kwargs,
        **kwargs,
    )


class LJClusterEnv(KeywordEnv):
    """Build a Lennard-Jones cluster, one atom per step: a task whose best answer is known.

    ## Description
    ClusterEnv for atoms that attract one another by the Lennard-Jones potential without a cut-off. The lowest energies
    of up to 38 atoms are known (:data:`megen_gym.rewards.lennard_jones.GLOBAL_MINIMA`): LJ13 -44.326801, LJ19
    -72.659782, LJ26 -108.315616 and LJ38 -173.928427 epsilon, so that a search can be right, and
    ``python -m megen_gym compare`` counts the evaluations that it took.

    ## Action space, observation space, episode end, info
    As in :class:`megen_gym.envs.clusters.ClusterEnv`. Atoms are called Ar; they have the bond length of gallium, so
    that agents and networks meet familiar distances.

    ## Rewards
    ``reward="lennard_jones"``: the energy released by each placement in epsilon; the return is minus the energy of the
    final cluster, as built, not relaxed.

    ## Starting state
    The empty canvas, or with `start` a cluster drawn at random from a file.

    ## Arguments
    All of :class:`megen_gym.envs.clusters.ClusterEnv`, and:

    | name | default | meaning |
    | --- | --- | --- |
    | n | 13 | atoms of the final cluster |
    | formula | None | bag(s) to place, instead of `n`; ``formula="Ar", size_range=(7, 12)`` for any of these sizes |
    | sigma | 2.361 | Å, length of the potential |
    | epsilon | 1.0 | its depth; the unit of energy |
    | distance_range | (1.0, 1.3) sigma | Å |
    | min_distance, max_distance | 0.9, 1.4 sigma | Å |
    | windows | (1.0, 1.3), (1.0, 1.4), (1.0, 1.6) sigma | Å; an atom that keeps them touches three others |
    | reward | "lennard_jones" | any other reward of clusters works too |

    ## Version history
    * v0: first version. Minima: Wales and Doye, J. Phys. Chem. A 101, 5111 (1997).
    """

    build = staticmethod(lennard_jones)


class LJClusterVectorEnv(KeywordVectorEnv):
    """`num_envs` episodes of :class:`LJClusterEnv` side by side, with the same arguments."""

    build = staticmethod(lennard_jones)
