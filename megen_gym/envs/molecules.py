"""Molecule-v0: from keyword arguments to task and reward, MolGym's tasks by name, and the manual page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from ase.data import atomic_numbers, covalent_radii

from megen_gym.bags import Bags, parse_formula
from megen_gym.envs.clusters import Formula, cluster, load_starts
from megen_gym.envs.single import KeywordEnv
from megen_gym.envs.vector import KeywordVectorEnv
from megen_gym.errors import InputError, nearest
from megen_gym.rewards.base import Reward
from megen_gym.structure import StructureBatch, check_symbols
from megen_gym.tasks.base import Task

ORGANIC = ("H", "C", "N", "O", "F")
"""Elements that are there by default, those of QM9."""

SHORTEST, LONGEST = 0.7, 1.7
"""Å; where G-SchNet places atoms around the focus. H-H is 0.74, C-C 1.54; heavier elements reach farther."""

_GUARDS: dict[str, Any] = {
    "min_distance": 0.6,
    "max_distance": 2.0,
    "distance_range": (0.8, 1.8),
    "min_reward": -16.33,
}
_HEAVY = _GUARDS | {"distance_range": (1.1, 2.1), "max_distance": 2.2}

TASKS: dict[str, dict[str, Any]] = {
    **{f"molgym:{bag}": {"formula": bag} | _GUARDS for bag in ("CH3NO", "CH4O", "C2H2O2")},
    **{f"molgym:{bag}": {"formula": bag} | _GUARDS for bag in ("C3H5NO3", "C4H7N", "C3H8O")},
    **{f"molgym:{bag}": {"formula": bag, "symbols": ("X", "O", "F", "S")} | _HEAVY for bag in ("SOF4", "SOF6", "SF6")},
    "molgym:IF5": {"formula": "IF5", "symbols": ("X", "F", "I")} | _HEAVY,
    "molgym:multi-bag": {"formula": "H2O,CHN,C2N2,H3N,C2H2,CH2O,C2HNO,N4O,C3HN,CH4,CF4"} | _GUARDS,
    "molgym:stochastic-bag": {"formula": "C7H8N2O2", "size_range": (16, 22)} | _GUARDS,
    "molgym:solvation": {
        **_GUARDS,
        "start": "g2:H2CO",
        "formula": "H2O",
        "refills": 4,
        "distance_range": (0.9, 2.8),
        "max_distance": 2.9,
        "reward": "sum",
        "reward_kwargs": {"rewards": ["gfn2", {"name": "distance", "coef": 0.272}]},
    },
}
"""MolGym's tasks: arguments of :class:`MoleculeEnv`. Energies are eV: -0.6 hartree are -16.33, 0.01 are 0.272."""


def molecule(
    formula: Formula | None = "C2H6O",
    *,
    max_n_atoms: int | None = None,
    canvas_size: int | None = None,
    symbols: Sequence[str] | str | None = None,
    size_range: Sequence[int] | None = None,
    start: str | None = None,
    split: Literal["all", "train", "eval"] = "all",
    refills: int = 0,
    stop: bool | None = None,
    distance_range: Sequence[float] | None = None,
    min_distance: float = SHORTEST,
    reward: str = "gfn2",
    **kwargs: Any,
) -> tuple[Task[Any], Reward]:
    """Task and reward of Molecule-v0; see :class:`MoleculeEnv` for the arguments."""
    free = formula is None or formula == "free"
    if None not in (max_n_atoms, canvas_size) and max_n_atoms != canvas_size:
        raise InputError(
            f"max_n_atoms is {max_n_atoms} and canvas_size {canvas_size}, but both are the most atoms of a molecule; "
            "give one of them"
        )
    size = canvas_size if max_n_atoms is None else max_n_atoms
    batch = None if start is None else load_substructures(start, split)
    if size is not None:
        _check_size(size, batch)
    names = check_symbols(_symbols(symbols, None if free else formula, batch))
    if formula is None or free:
        bags = _free_bags(names, size, {"size_range": size_range, "refills": refills})
    else:
        bags = Bags.parse(formula, names, size_range, even_electrons=True)
    return cluster(
        bags=bags,
        symbols=names,
        canvas_size=size,
        starts=batch,
        refills=refills,
        stop=free if stop is None else stop,
        distance_range=_distances(names) if distance_range is None else distance_range,
        min_distance=min_distance,
        reward=reward,
        **kwargs,
    )


def load_substructures(start: str, split: str = "all") -> StructureBatch:
    """The structures of a file, or one molecule of ASE's G2 or S22 collection.

    Args:
        start: Path, or collection and name as in ``"g2:C6H6"`` or ``"s22:Water_dimer"``.
        split: See :func:`megen_gym.envs.clusters.load_starts`; a single molecule is never held out.

    Raises:
        InputError: for a file that cannot be read or a molecule that the collection does not have.

    >>> load_substructures("g2:C6H6").n_atoms.tolist()
    [12]
    """
    from ase.collections import g2, s22

    prefix, _, name = start.partition(":")
    if prefix not in ("g2", "s22"):
        return load_starts(start, split)
    collection = g2 if prefix == "g2" else s22
    if name not in collection.names:
        raise InputError(f"ASE's {prefix} has no molecule {name!r}; {nearest(name, collection.names)}")
    return StructureBatch.from_atoms([collection[name]])


def task_options(task: str | None) -> dict[str, Any]:
    """Arguments of :class:`MoleculeEnv` that the name of a task stands for; none for None.

    Raises:
        InputError: for an unknown name.

    >>> task_options("molgym:CH4O")["formula"]
    'CH4O'
    """
    if task is None:
        return {}
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}; {nearest(str(task), TASKS)}")
    return dict(TASKS[task])


def _merged(task: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given over what the task says; arguments of another reward are not the task's."""
    options = task_options(task)
    if "reward" in given:
        options.pop("reward_kwargs", None)
    return options | dict(given)


def _symbols(given: Sequence[str] | str | None, formula: Formula | None, batch: StructureBatch | None) -> list[str]:
    if given is not None:
        return given.split(",") if isinstance(given, str) else list(given)
    parts = [] if formula is None else formula.split(",") if isinstance(formula, str) else formula
    found = {name for part in parts for name in parse_formula(part.strip(), "C2H6O")}
    found |= set(() if batch is None else batch.symbols[1:])
    return sorted(found | set(ORGANIC), key=lambda name: atomic_numbers.get(name, 0))


def _free_bags(names: Sequence[str], size: int | None, unused: Mapping[str, Any]) -> Bags:
    for name, value in unused.items():
        if value:
            raise InputError(f"{name} is {value!r} but formula is free, which has no bag; give a formula, or no {name}")
    if size is None:
        raise InputError("formula is free but max_n_atoms was not given; say how large a molecule may become")
    return Bags.unlimited(names, size)


def _check_size(size: int, batch: StructureBatch | None) -> None:
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise InputError(f"max_n_atoms is {size!r}; give the most atoms of a molecule, at least 1")
    largest = 0 if batch is None else int(batch.n_atoms.max())
    if largest >= size:
        raise InputError(
            f"the start has {largest} atoms and max_n_atoms is {size}, which leaves no room for another atom; "
            f"give max_n_atoms={largest + 1} or more, or a smaller start"
        )


def _distances(names: Sequence[str]) -> tuple[float, float]:
    """Å; up to 1.1 times the longest sum of covalent radii, as G-SchNet's neighbours."""
    return SHORTEST, max(LONGEST, *(round(2.2 * float(covalent_radii[atomic_numbers[name]]), 2) for name in names[1:]))


class MoleculeEnv(KeywordEnv):
    """Build a molecule, one atom per step.

    ## Description
    The task of :class:`megen_gym.envs.clusters.ClusterEnv` with organic elements. What may be placed is a fixed bag
    (``formula="C2H6O"``), one of several, a random one within `size_range`, or anything: with ``formula="free"`` every
    element may be placed any number of times until X (stop) is chosen or the molecule has `max_n_atoms` atoms. A
    molecule grows from nothing or from a substructure (``start="g2:C6H6"``, or a file), whose atoms keep their places
    relative to each other.

    ## Action space
    ``Box(-1, 1, (6,), float32)`` as in ClusterEnv: focus, element (X first, where stopping is possible), distance,
    direction.

    ## Observation space
    As in ClusterEnv: positions, species, bag, focus_mask, element_mask; C is `max_n_atoms`. In free composition the bag
    holds as many of each element as the molecule may have atoms, less those placed.

    ## Rewards
    ``reward="gfn2"`` (the extra ``xtb``) pays the energy that a placement releases in eV, by GFN2-xTB, so that the
    return is the binding energy of the molecule. ``"molecule_valid"`` (the extra ``molecules``) is 1 for a molecule
    that is possible, ``"target"`` minus the distance of a property (gap, dipole, energy) from a target; they add up by
    ``reward="sum", reward_kwargs={"rewards": ["gfn2", {"name": "molecule_valid", "weight": 5}]}``. Any other name of
    :func:`megen_gym.rewards.make_reward` will do. A refused move earns `min_reward`, or what the reward sets for it.

    ## Starting state
    The empty canvas, or a substructure drawn from `start`, centred.

    ## Episode end
    *Terminated* when the bag is empty (and no refill is left), the molecule is full, X is chosen, or a move is refused
    (with ``on_refusal="end"``). *Truncated* at the step limit, or when the reward cannot be computed; ``info["error"]``
    says why.

    ## Info
    As in ClusterEnv. What the reward knows of the molecule (`energy`, `worth`, `molecule_valid`, `gap`) is told at the
    last step too, when that was a stop or a refused move.

    ## Arguments
    All of ClusterEnv, and:

    | name | default | meaning |
    | --- | --- | --- |
    | formula | "C2H6O" | the bag; several (list, or separated by commas) are cycled; "free" or None: any composition |
    | max_n_atoms | what is needed | most atoms of a molecule, with those of the start; needed where formula is free |
    | symbols | X,H,C,N,O,F | and the elements of formula and start |
    | size_range | None | (smallest, largest) random bags; with an even number of electrons, as MolGym's |
    | start | None | "g2:NAME" or "s22:NAME" (ASE's collections), or a file |
    | stop | where formula is free | offer the stop action X |
    | distance_range | (0.7, 1.7) | Å; up to 2.2 covalent radii where elements heavier than these are there |
    | min_distance, max_distance | 0.7, 1.05 of the longest | Å, guards: nearer or farther is refused |
    | reward | "gfn2" | the judge |
    | task | None | one of MolGym's tasks, which sets the other arguments; those given prevail |

    `task` is one of ``molgym:CH3NO``, ``molgym:CH4O``, ``molgym:C2H2O2``, ``molgym:C3H5NO3``, ``molgym:C4H7N``,
    ``molgym:C3H8O`` (one bag), ``molgym:SOF4``, ``molgym:SOF6``, ``molgym:SF6``, ``molgym:IF5`` (symmetric ones),
    ``molgym:multi-bag`` (eleven bags), ``molgym:stochastic-bag`` (16 to 22 atoms as in C7H8N2O2) and
    ``molgym:solvation`` (five H2O around H2CO; 0.01 hartree per Å are taken off). Their guards and floor are MolGym's
    (0.6 Å, 2.0 Å, -0.6 hartree), the energy is that of GFN2-xTB instead of PM6.

    ## Version history
    * v0: first version. After MolGym (Simm et al., ICML 2020 and ICLR 2021) and G-SchNet (Gebauer et al., NeurIPS
      2019).
    """

    build = staticmethod(molecule)

    def __init__(self, *, task: str | None = None, **kwargs: Any) -> None:
        super().__init__(**_merged(task, kwargs))


class MoleculeVectorEnv(KeywordVectorEnv):
    """`num_envs` episodes of :class:`MoleculeEnv` side by side, with the same arguments."""

    build = staticmethod(molecule)

    def __init__(self, num_envs: int, *, task: str | None = None, **kwargs: Any) -> None:
        super().__init__(num_envs, **_merged(task, kwargs))
