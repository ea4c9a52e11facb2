"""Cluster-v0 and GaCluster-v0: from keyword arguments to task and reward, and the manual pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase.data import atomic_numbers, covalent_radii

from megen_gym.actions import FocalCodec
from megen_gym.bags import Bags, parse_formula
from megen_gym.envs.single import KeywordEnv
from megen_gym.envs.vector import KeywordVectorEnv
from megen_gym.errors import InputError
from megen_gym.io import read_structures
from megen_gym.rewards import make_reward
from megen_gym.rewards.base import Reward
from megen_gym.rules import GALLIUM_WINDOWS, PlacementRules, Window, distance_pair
from megen_gym.structure import FloatArray, IntArray, StructureBatch, check_symbols
from megen_gym.tasks.base import Task
from megen_gym.tasks.cluster import ClusterTask, Starts

SEEDS = Path(__file__).resolve().parent.parent / "data" / "gallium_seeds.extxyz"
"""Bundled gallium clusters, relaxed with PBE; what ``start="seeds"`` stands for."""

Formula = str | Sequence[str]


def cluster(
    formula: Formula = "Au13",
    *,
    symbols: Sequence[str] | str | None = None,
    canvas_size: int | None = None,
    size_range: Sequence[int] | None = None,
    start: str | None = None,
    split: Literal["all", "train", "eval"] = "all",
    refills: int = 0,
    stop: bool = False,
    scaffold: str | Sequence[Sequence[float]] | None = None,
    distance_range: Sequence[float] | None = None,
    min_distance: float | None = None,
    max_distance: float | None = None,
    windows: Sequence[Window] = (),
    on_refusal: Literal["end", "skip"] = "end",
    reward: str = "emt",
    reward_kwargs: Mapping[str, Any] | None = None,
    bag_per_start: IntArray | None = None,
    starts: StructureBatch | None = None,
    bags: Bags | None = None,
) -> tuple[Task[Any], Reward]:
    """Task and reward of Cluster-v0; see :class:`ClusterEnv` for the arguments."""
    names = symbols.split(",") if isinstance(symbols, str) else symbols
    batch = starts if starts is not None else (None if start is None else load_starts(start, split))
    if names is None:
        bag_elements = {name for part in _formulas(formula) for name in parse_formula(part.strip())}
        start_elements = set() if batch is None else set(batch.symbols[1:])
        names = sorted(bag_elements | start_elements, key=lambda name: atomic_numbers.get(name, 0))
    checked = check_symbols(names)
    if batch is not None:
        batch = StructureBatch.from_atoms(batch.to_atoms(), checked)
    bags = bags or Bags.parse(formula, checked, size_range)
    start_size = 0 if batch is None else int(batch.n_atoms.max())
    if canvas_size is None:
        most = bags.largest * (1 + refills) + start_size
        canvas_size = most if bag_per_start is None else int((batch.n_atoms + bag_per_start.sum(1)).max())  # type: ignore[union-attr]
    radii = [covalent_radii[atomic_numbers[name]] for name in checked[1:]]
    natural = (round(1.7 * min(radii), 2), round(2.6 * max(radii), 2))
    shortest, longest = natural if distance_range is None else distance_pair(distance_range)
    task = ClusterTask(
        checked,
        canvas_size,
        bags,
        FocalCodec(shortest, longest),
        PlacementRules(
            0.8 * shortest if min_distance is None else min_distance,
            1.05 * longest if max_distance is None else max_distance,
            windows,  # type: ignore[arg-type]
        ),
        starts=None if batch is None else Starts.from_batch(batch, canvas_size, bag_per_start),
        refills=refills,
        stop=stop,
        scaffold=None if scaffold is None else hull_of(scaffold),
        on_refusal=on_refusal,
    )
    return task, make_reward(reward, **(reward_kwargs or {}))


def gallium(
    n: int | None = 18,
    *,
    formula: Formula | None = None,
    start: str | None = None,
    grow: int | None = None,
    split: Literal["all", "train", "eval"] = "all",
    distance_range: Sequence[float] = (2.3, 3.1),
    min_distance: float = 2.0,
    max_distance: float = 3.2,
    windows: Sequence[Window] = GALLIUM_WINDOWS,
    reward: str = "dart",
    **kwargs: Any,
) -> tuple[Task[Any], Reward]:
    """Task and reward of GaCluster-v0; see :class:`GaClusterEnv` for the arguments."""
    options: dict[str, Any] = {
        "symbols": ("X", "Ga"),
        "distance_range": distance_range,
        "min_distance": min_distance,
        "max_distance": max_distance,
        "windows": windows,
        "reward": reward,
        **kwargs,
    }
    if n is not None and (isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1):
        raise InputError(f"n is {n!r}; give the number of atoms of the final cluster, at least 1")
    if formula is not None:
        return cluster(formula, start=start, split=split, **options)
    if start is None:
        if n is None or grow is not None:
            raise InputError("an empty canvas needs n and no grow; give n, or a start such as start='seeds'")
        return cluster(f"Ga{n}", **options)
    batch = load_starts(start, split)
    sizes = batch.n_atoms
    if grow is not None:
        if grow < 1:
            raise InputError(f"grow is {grow}; give the number of atoms to add, at least 1")
        fits, wanted = (np.ones(len(batch), dtype=bool), "any") if n is None else (sizes == n - grow, str(n - grow))
        bag = np.full(len(batch), grow)
    elif n is None:
        raise InputError("neither n nor grow was given; say how large the final cluster is, or how many atoms to add")
    else:
        fits, wanted, bag = sizes < n, f"fewer than {n}", n - sizes
    if not fits.any():
        raise InputError(
            f"n={n} cannot be reached from {start!r}, whose structures have {sizes.min()} to {sizes.max()} atoms; "
            f"a start with {wanted} atoms is needed: raise n or give another start"
        )
    counts = np.stack([np.zeros_like(bag), bag], axis=1)[fits]
    return cluster("Ga", starts=batch[fits], bag_per_start=counts, **options)


def load_starts(start: str, split: str = "all") -> StructureBatch:
    """The structures of a file, or the bundled gallium clusters for ``"seeds"``.

    Args:
        start: Path, or "seeds".
        split: "all"; "eval" for every fifth structure of each size, held out; "train" for the others. Where no size has
            five structures, nothing is held out and both are "all".

    Raises:
        InputError: for another split.
    """
    batch = StructureBatch.from_atoms(read_structures(SEEDS if start == "seeds" else Path(start)))
    if split == "all":
        return batch
    if split not in ("train", "eval"):
        raise InputError(f"split is {split!r}; give all, train or eval")
    sizes = batch.n_atoms
    order = np.argsort(sizes, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order)) - np.searchsorted(sizes[order], sizes[order])
    held_out = rank % 5 == 4
    if not held_out.any():
        return batch
    return batch[held_out if split == "eval" else ~held_out]


def hull_of(scaffold: str | Sequence[Sequence[float]]) -> FloatArray:
    """(F, 4) half-spaces of the convex hull of points (Å), or of the atoms of a file, centred at their mean.

    Raises:
        InputError: when the points do not span a volume.
    """
    from scipy.spatial import ConvexHull, QhullError

    points = read_structures(Path(scaffold))[0].positions if isinstance(scaffold, str) else np.array(scaffold, float)
    try:
        return np.asarray(ConvexHull(points - points.mean(0)).equations)
    except (QhullError, ValueError, IndexError) as error:
        raise InputError(
            f"the scaffold's {len(points)} points span no volume; give at least 4 points that are not in one plane"
        ) from error


def _formulas(formula: Formula) -> list[str]:
    return formula.split(",") if isinstance(formula, str) else list(formula)


class ClusterEnv(KeywordEnv):
    """Build a cluster or a molecule of any elements, one atom per step.

    ## Description
    An episode begins with a bag of atoms and a canvas, empty or with a structure on it. Every step takes one atom out
    of the bag and puts it beside an atom of the canvas. A reward judges each placement.

    ## Action space
    ``Box(-1, 1, (6,), float32)``, see :class:`megen_gym.actions.FocalCodec`:

    | index | meaning | -1 ... +1 |
    | --- | --- | --- |
    | 0 | focus: the atom that the new one is placed beside | first ... last atom of the canvas |
    | 1 | element of the new atom | first ... last element left in the bag (X first, if `stop`) |
    | 2 | distance from the focus | `distance_range` in Å |
    | 3-5 | direction from the focus | any vector; its length does not matter |

    The first atom of an empty canvas goes to the origin.

    ## Observation space
    A flat ``Dict`` for a canvas of C slots and S symbols (X included):

    | key | shape | meaning |
    | --- | --- | --- |
    | positions | (3 C,) float32 | x0 y0 z0 x1 ... in Å, zeros where empty |
    | species | (C,) int8 | index into the symbols, 0 where empty |
    | bag | (S,) int16 | atoms left |
    | focus_mask | (C,) 0/1 | atoms that may be the focus |
    | element_mask | (S,) 0/1 | elements that may be placed now; index 0 is the stop action |

    ## Rewards
    Any name of :func:`megen_gym.rewards.make_reward` with JSON-able arguments. Energy rewards pay the energy released
    by each placement in eV, so that the return is the binding energy of the last structure. A refused move earns
    `min_reward`, or what the reward sets for it.

    ## Starting state
    The empty canvas, or a structure drawn from `start`. Bags are cycled in the order given, or drawn at random in
    `size_range`.

    ## Episode end
    *Terminated* when the bag is empty (and no refill is left), the canvas is full, X is chosen, or a move is refused
    (with ``on_refusal="end"``). *Truncated* at the step limit, or when the reward cannot be computed; ``info["error"]``
    says why.

    ## Info
    `placed`, `valid` (the windows hold), `refused`, `stopped`, `all_valid` (so were all moves of the episode),
    `n_start` (atoms at its start), every term of the reward by name, `error`.

    ## Arguments
    | name | default | meaning |
    | --- | --- | --- |
    | formula | "Au13" | the bag; several (list, or separated by commas) are cycled |
    | symbols | from formula and start | elements in the order of the species index |
    | canvas_size | what is needed | C |
    | size_range | None | (smallest, largest) random bags in the proportions of the formula |
    | start | None | file of initial structures |
    | split | "all" | "train", or "eval": every fifth start of each size, held out |
    | refills | 0 | how often an empty bag is refilled |
    | stop | False | offer the stop action X |
    | scaffold | None | file or points (Å) whose convex hull atoms must stay inside |
    | distance_range | from covalent radii | Å, shortest and longest distance from the focus |
    | min_distance, max_distance | 0.8 and 1.05 of that range | Å, guards: nearer or farther is refused |
    | windows | () | Å, (low, high) of the 1st, 2nd, ... neighbour; placements that keep them are `valid` |
    | on_refusal | "end" | or "skip": the move is lost, the episode goes on |
    | min_reward | the reward's | floor of a step's reward, and what a refused move earns |
    | reward, reward_kwargs | "emt", None | the judge and its JSON-able arguments |
    | render_mode | None | "ansi", "rgb_array", "human" |

    ## Version history
    * v0: first version. After MolGym (Simm et al., ICML 2020 and ICLR 2021).
    """

    build = staticmethod(cluster)


class GaClusterEnv(KeywordEnv):
    """Build a gallium cluster, one atom per step.

    ## Description
    ClusterEnv with gallium's defaults: bonds of 2.3 to 3.1 Å, MeGen's neighbour windows, and the DART energy model as
    the judge. The task of MeGen (Modee et al., Mach. Learn.: Sci. Technol. 4, 025032, 2023), which adds one atom to a
    seed, is ``start="seeds", n=None, grow=1, reward="megen"``.

    ## Action space, observation space, episode end, info
    As in :class:`ClusterEnv`.

    ## Rewards
    As in :class:`ClusterEnv`. The return of an episode under ``reward="dart"`` is the binding energy in eV.

    ## Starting state
    The empty canvas, or with `start` a cluster drawn at random from the bundled seeds or a file.

    ## Arguments
    All of :class:`ClusterEnv`, and:

    | name | default | meaning |
    | --- | --- | --- |
    | n | 18 | atoms of the final cluster; None (with `grow`): any seed, whatever its size |
    | start | None | "seeds" (bundled, Ga2-Ga17) or a file |
    | grow | None | atoms to add: seeds of n - grow atoms are used; None: any seed smaller than n is filled up to n |
    | formula | None | bag(s) to place in addition to the start, instead of `n` |
    | distance_range | (2.3, 3.1) | Å |
    | min_distance, max_distance | 2.0, 3.2 | Å |
    | windows | MeGen's | ((2.3, 3.1), (2.5, 3.0), (2.5, 5.5)) Å |
    | reward | "dart" | bundled weights; ``reward_kwargs={"weights": "file.npz"}`` for others |

    ## Version history
    * v0: first version.
    """

    build = staticmethod(gallium)


class ClusterVectorEnv(KeywordVectorEnv):
    """`num_envs` episodes of :class:`ClusterEnv` side by side, with the same arguments."""

    build = staticmethod(cluster)


class GaClusterVectorEnv(KeywordVectorEnv):
    """`num_envs` episodes of :class:`GaClusterEnv` side by side, with the same arguments."""

    build = staticmethod(gallium)
