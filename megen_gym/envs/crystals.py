"""CrystalSlots-v0: from keyword arguments to task and reward, and the manual page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from ase import Atoms
from ase.calculators.emt import parameters
from ase.data import atomic_numbers, chemical_symbols

from megen_gym.actions import FocalCodec
from megen_gym.envs.single import KeywordEnv
from megen_gym.envs.vector import KeywordVectorEnv
from megen_gym.errors import InputError, nearest
from megen_gym.io import file_format, read_structures
from megen_gym.prototypes import PROTOTYPES, prototype
from megen_gym.rewards import make_reward
from megen_gym.rewards.base import Reward
from megen_gym.rules import PlacementRules, Window, distance_pair
from megen_gym.tasks.base import Task
from megen_gym.tasks.slots import FocalSlots, FractionalSlots, SlotsTask, SpeciesSlots
from megen_gym.tasks.template import Template, repeated

Free = Literal["positions", "species", "both"]
Action = Literal["fractional", "focal"]
Composition = Literal["fixed", "free"]

EMT_METALS = frozenset({"Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"})
"""What EMT was made for; ASE's parameters of H, C, N and O are no more than placeholders."""


def crystal_slots(
    template: str = "l12",
    *,
    prototype_kwargs: Mapping[str, Any] | None = None,
    supercell: Sequence[int] = (1, 1, 1),
    pbc: bool | Sequence[bool] | str | None = None,
    symbols: Sequence[str] | str | None = None,
    free: Free = "positions",
    action: Action | None = None,
    composition: Composition = "fixed",
    elements: Sequence[str] | str | None = None,
    vacancies: bool = False,
    keep: int | Sequence[int] = 0,
    stop: bool = False,
    distance_range: Sequence[float] | None = None,
    min_distance: float | None = None,
    max_distance: float | None = None,
    windows: Sequence[Window] | None = None,
    on_refusal: Literal["end", "skip"] = "end",
    reward: str | None = None,
    reward_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Task[Any], Reward]:
    """Task and reward of CrystalSlots-v0; see :class:`CrystalSlotsEnv` for the arguments."""
    _check_choices(free, action, composition, elements, vacancies, stop, distance_range, max_distance)
    extra = _names(elements) or []
    atoms = repeated(load_template(template, prototype_kwargs), supercell)
    slots = Template.from_atoms(atoms, pbc=pbc, symbols=_names(symbols), extra=extra, keep=keep)
    if composition == "free":
        of_template = np.flatnonzero(slots.counts(free=False)).tolist()
        chosen = [slots.symbols.index(name) for name in extra] or of_template
    else:
        chosen = None
    focal = action == "focal"
    natural = (round(0.85 * slots.shortest, 2), round(1.2 * slots.widest, 2))
    shortest, longest = natural if distance_range is None else distance_pair(distance_range)
    most = (1.05 * longest if max_distance is None else max_distance) if focal else np.inf
    rules = PlacementRules(
        0.5 * slots.shortest if min_distance is None else min_distance,
        most,
        ((0.8 * slots.shortest, most),) if windows is None else windows,  # type: ignore[arg-type]
    )
    options: dict[str, Any] = {"free": chosen, "on_refusal": on_refusal}
    task: SlotsTask
    if free == "species":
        task = SpeciesSlots(slots, rules, stop="vacant" if vacancies else None, **options)
    elif focal:
        codec = FocalCodec(shortest, longest)
        task = FocalSlots(slots, rules, codec, stop="stop" if stop else None, **options)
    else:
        task = FractionalSlots(slots, rules, species=free == "both", **options)
    placed = slots.species[slots.n_kept :] if chosen is None else chosen
    present = {slots.symbols[i] for i in (*slots.species[: slots.n_kept], *placed)}
    return task, make_reward(_reward_name(reward, present), **(reward_kwargs or {}))


def _reward_name(reward: str | None, elements: set[str]) -> str:
    """What the user wants; by default EMT for the metals that it was made for, and contacts for all else."""
    if reward == "emt" and (unknown := sorted(elements - set(parameters))):
        raise InputError(
            f"reward 'emt' does not know {', '.join(unknown)}; give reward='contacts', which takes all elements, or "
            "the import path of a calculator for them"
        )
    return reward or ("emt" if elements <= EMT_METALS else "contacts")


def load_template(template: str, options: Mapping[str, Any] | None = None) -> Atoms:
    """The first structure of a file, or a prototype by name.

    Args:
        template: Path of an extxyz, CIF, POSCAR, trajectory or database file, or one of
            :data:`megen_gym.prototypes.PROTOTYPES`.
        options: Arguments of the prototype.

    Raises:
        InputError: for a folder, a missing or faulty file, or a name that is neither.
    """
    if not isinstance(template, str | Path):
        raise InputError(
            f"template is {template!r}; give the path of a structure file or one of {', '.join(PROTOTYPES)}"
        )
    path = Path(template)
    if template in PROTOTYPES:
        return prototype(template, options)
    if path.is_dir():
        raise InputError(f"template {template!r} is a folder; give one structure file, e.g. {path / 'POSCAR'}")
    if not path.exists() and file_format(path) is None and len(path.parts) == 1:
        raise InputError(
            f"template {template!r} is neither a file nor a prototype; {nearest(str(template), PROTOTYPES)}"
        )
    if options:
        raise InputError(f"template {template!r} is a file, but prototype_kwargs are given; leave them out")
    return read_structures(path)[0]


def _names(names: Sequence[str] | str | None) -> list[str] | None:
    """A list of element names; X is left out."""
    if names is None:
        return None
    listed = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    for name in listed:
        if name not in atomic_numbers:
            raise InputError(f"unknown element {name!r} in {','.join(listed)}; {nearest(name, chemical_symbols[1:])}")
    return [name for name in listed if name != "X"]


def _check_choices(
    free: str,
    action: str | None,
    composition: str,
    elements: object,
    vacancies: bool,
    stop: bool,
    distance_range: object,
    max_distance: object,
) -> None:
    """Refuse names that are not known, and arguments that do not belong together."""
    choices = {"free": (free, Free), "action": (action, Action), "composition": (composition, Composition)}
    for name, (value, known) in choices.items():
        if value not in get_args(known) and not (name == "action" and value is None):
            raise InputError(f"{name} is {value!r}; {nearest(str(value), get_args(known))}")
    if free == "species" and action is not None:
        raise InputError(f"free='species' chooses an element per site, without action={action!r}; leave action out")
    if composition == "free" and free == "positions":
        raise InputError("composition='free' was given with free='positions'; give free='species' or 'both'")
    if elements is not None and composition != "free":
        raise InputError("elements were given for a fixed composition; give composition='free' too, or leave them out")
    if vacancies and (free != "species" or composition != "free"):
        raise InputError(
            f"vacancies were asked for with free={free!r} and composition={composition!r}; "
            "they need free='species' and composition='free'"
        )
    if action != "focal" and (stop or distance_range is not None or max_distance is not None):
        raise InputError("stop, distance_range and max_distance belong to action='focal'; leave them out or give it")


class CrystalSlotsEnv(KeywordEnv):
    """Fill the slots of a crystal's cell, one per step.

    ## Description
    A template gives the cell, its periodic axes, N numbered slots and the composition. `free` says what the policy
    decides:

    | free | a step | published as |
    | --- | --- | --- |
    | "positions" | where the atom of the next slot stands (cell, composition and atom count are fixed) | CryinGAN's task |
    | "species" | which element stands on the next site; sites are the template's positions | alloys, orderings |
    | "both" | both | |

    Distances are those of the nearest periodic images, exact in any cell. Slots named by `keep` hold their atom from
    the start (a substrate); they come first on the canvas, the others follow in the template's order.

    ## Action space
    ``action="fractional"`` (default), see :class:`megen_gym.actions.FractionalCodec`: ``Box(-1, 1, (3,), float32)``, or
    with ``free="both"`` ``(S + 3,)`` for S symbols, X included:

    | index | meaning | -1 ... +1 |
    | --- | --- | --- |
    | 0 ... S-1 (only "both") | score of each symbol; the highest that is allowed is placed | |
    | last three | coordinates along the cell vectors | 0 ... 1 of the vector |

    ``action="focal"``: ``Box(-1, 1, (6,), float32)``, the one of :class:`megen_gym.envs.clusters.ClusterEnv`: an atom
    of the bag is put beside an atom of the cell, wherever its slot was, and wrapped into the cell; outside the cell
    along an axis that is not periodic it is refused. The first atom of an empty cell goes to a slot of its element,
    drawn at random.

    ``free="species"``: ``Discrete(S)``, the species index; 0 (X) leaves the site vacant where `vacancies` allow it.
    ``action_masks()``, (S,) bool, says what is allowed now; sb3-contrib's MaskablePPO asks for it.

    ## Observation space
    A flat ``Dict`` for N slots and S symbols; the first five entries are those of the clusters:

    | key | shape | meaning |
    | --- | --- | --- |
    | positions | (3 N,) float32 | x0 y0 z0 x1 ... in Å, inside the cell; atoms first, then zeros |
    | species | (N,) int8 | index into the symbols, 0 where empty |
    | bag | (S,) int16 | atoms left; with a free composition, slots left for each element |
    | focus_mask | (N,) 0/1 | where there is an atom |
    | element_mask | (S,) 0/1 | elements that may be placed now |
    | cell | (9,) float32 | Å, lattice vectors a, b, c one after the other |
    | pbc | (3,) 0/1 | periodic axes |
    | sites | (3 N,) float32 | only "species": Å, all sites |
    | next_site | (N,) 0/1 | only "species": the site that comes next |

    ## Rewards
    Any name of :func:`megen_gym.rewards.make_reward`; structures reach it with their cell. A refused move earns
    `min_reward`, or what the reward sets for it. A vacancy earns 0.

    ## Starting state
    The kept atoms, or an empty cell.

    ## Episode end
    *Terminated* when no slot is left, X stops it (`stop`), or a move is refused (with ``on_refusal="end"``): too close
    to another atom, outside the cell, or a masked element. *Truncated* at the step limit, or when the reward cannot be
    computed; ``info["error"]`` says why. With ``min_distance=0`` nothing is too close: a generator's structure can be
    played to its end and judged as a whole.

    ## Info
    As :class:`megen_gym.envs.clusters.ClusterEnv`: `placed`, `valid`, `refused`, `stopped`, `all_valid`, `n_start`, the
    terms of the reward, `error`.

    ## Arguments
    | name | default | meaning |
    | --- | --- | --- |
    | template | "l12" | file (its first structure), or a prototype: sc, fcc, bcc, hcp, diamond, zincblende, rocksalt, cesiumchloride, fluorite, wurtzite, perovskite, l12, l10, rutile |
    | prototype_kwargs | None | formula, a, c (Å) and other arguments of the prototype |
    | supercell | (1, 1, 1) | repetitions of the template along its vectors |
    | pbc | the template's | periodic axes: one answer, three, or three letters such as "TTF" |
    | symbols | X and the elements | elements in the order of the species index |
    | free | "positions" | or "species", "both" |
    | action | "fractional" | or "focal" |
    | composition | "fixed" | "free": any element in any slot ("species", "both") |
    | elements | those of the template | what may be placed where the composition is free |
    | vacancies | False | sites may stay empty ("species", free composition) |
    | keep | 0 | template atoms that stand there from the start: indices, or how many of the first |
    | stop | False | focal: offer the stop action X |
    | distance_range | from the template | focal: Å, shortest and longest distance from the focus |
    | min_distance | 0.5 of the template's smallest distance | Å, guard: nearer is refused; 0 switches it off |
    | max_distance | 1.05 of distance_range | focal: Å, guard: farther from all others is refused |
    | windows | from 0.8 of the template's smallest distance | Å, (low, high) of the 1st, 2nd, ... neighbour; placements that keep them are `valid` |
    | on_refusal | "end" | or "skip": the move is lost, the episode goes on |
    | min_reward | the reward's | floor of a step's reward, and what a refused move earns |
    | reward | None | the judge; None: "emt" where only Al, Ni, Cu, Pd, Ag, Pt and Au occur, else "contacts" |
    | reward_kwargs | None | its JSON-able arguments |
    | render_mode | None | "ansi", "rgb_array", "human" |

    ## Version history
    * v0: first version. After CryinGAN (arXiv 2404.06734), whose generator fills the same slots at once.
    """  # noqa: E501

    build = staticmethod(crystal_slots)


class CrystalSlotsVectorEnv(KeywordVectorEnv):
    """`num_envs` episodes of :class:`CrystalSlotsEnv` side by side, with the same arguments."""

    build = staticmethod(crystal_slots)
