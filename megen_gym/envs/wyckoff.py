"""CrystalWyckoff-v0: from keyword arguments to task and reward, and the manual page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ase.data import atomic_numbers, covalent_radii

from megen_gym.bags import formula_counts, parse_formula
from megen_gym.envs.single import KeywordEnv
from megen_gym.envs.vector import KeywordVectorEnv
from megen_gym.errors import InputError
from megen_gym.lattices import LatticeRange
from megen_gym.rewards import make_reward
from megen_gym.rewards.base import Reward
from megen_gym.structure import check_symbols
from megen_gym.tasks.base import Task
from megen_gym.tasks.reach import Goals
from megen_gym.tasks.start import Sites, Start
from megen_gym.tasks.wyckoff import WyckoffTask
from megen_gym.wyckoff import SpaceGroup, space_group


def crystal_wyckoff(
    spacegroup: int | str | Sequence[int | str] = 221,
    *,
    draw: Literal["cycle", "random"] = "cycle",
    composition: str | None = None,
    elements: Sequence[str] | str | None = None,
    n_atoms: int | None = None,
    n_max: int = 16,
    max_atoms: int = 40,
    lattice: Literal["first", "last"] = "first",
    volume_range: Sequence[float] = (5.0, 60.0),
    max_aspect: float = 8.0,
    angle_range: Sequence[float] = (40.0, 140.0),
    min_distance: float | None = None,
    on_refusal: Literal["end", "skip"] = "end",
    start: Sites | None = None,
    start_lattice: Sequence[float] | None = None,
    reward: str = "contacts",
    reward_kwargs: Mapping[str, Any] | None = None,
) -> tuple[Task[Any], Reward]:
    """Task and reward of CrystalWyckoff-v0; see :class:`CrystalWyckoffEnv` for the arguments."""
    for name, value in (("n_max", n_max), ("max_atoms", max_atoms), ("n_atoms", 1 if n_atoms is None else n_atoms)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} is {value!r}; give a whole number of at least 1")
    if composition is None and elements is None:
        composition = "BaTiO3"
    if elements is None:
        assert composition is not None
        elements = list(parse_formula(composition, "BaTiO3"))
    symbols = check_symbols(elements)
    if composition is None:
        goals = Goals.of_size(len(symbols), max_atoms, n_atoms)
        used = symbols[1:]
    else:
        counts = formula_counts(composition, symbols)
        goals = Goals.of_formula(counts, max_atoms, n_atoms)
        used = tuple(name for name, count in zip(symbols, counts, strict=True) if count)
    if min_distance is None:
        min_distance = round(float(min(covalent_radii[atomic_numbers[name]] for name in used)), 2)
    task = WyckoffTask(
        symbols,
        load_groups(spacegroup),
        goals,
        n_max=n_max,
        max_atoms=max_atoms,
        lattice=lattice,
        bounds=LatticeRange(tuple(volume_range), max_aspect, tuple(angle_range)),  # type: ignore[arg-type]
        min_distance=min_distance,
        draw=draw,
        on_refusal=on_refusal,
        start=Start.read(start, start_lattice),
    )
    return task, make_reward(reward, **(reward_kwargs or {}))


def load_groups(spacegroup: int | str | Sequence[int | str]) -> list[SpaceGroup]:
    """One space group or several, by numbers or symbols; a text may hold several, separated by commas.

    Raises:
        InputError: for an unknown group, one that is named twice, or none at all.

    >>> [group.number for group in load_groups("Fm-3m,194")]
    [225, 194]
    """
    names: Sequence[int | str]
    if isinstance(spacegroup, str):
        names = spacegroup.split(",")
    else:
        names = list(spacegroup) if isinstance(spacegroup, Sequence) else [spacegroup]
    groups = [space_group(name) for name in names]
    if not groups:
        raise InputError("no space group was given; give at least one, e.g. 221 or Fm-3m")
    if len({group.number for group in groups}) < len(groups):
        raise InputError(f"a space group is named twice in {list(names)}; name each once")
    return groups


class CrystalWyckoffEnv(KeywordEnv):
    """Write a crystal as a lattice and a list of Wyckoff sites, one per step.

    ## Description
    The space group is given. Each step fills one site: a Wyckoff letter, an element, and those coordinates that are
    free on it; all equivalent atoms come at once. X ends the list. The lattice is a step of its own, before the sites
    or after them (`lattice`), and chooses only what the crystal family leaves free. Whatever is built has at least the
    symmetry of its group, exactly. P1 is group 1 and nothing special.

    The order is that of crystal_gpt and CrystalFormer: letters never descend, one without free coordinates occurs once,
    one with free coordinates as often as there is room. With a `composition` the masks leave only those sites after
    which the rest can still be completed, exactly and within `n_max` sites and `max_atoms` atoms: no choice inside the
    masks leads to a dead end. The list ends by itself where nothing can follow.

    Settings are those of spglib: unique axis b, hexagonal axes for rhombohedral groups, origin choice 1;
    ``megen_gym.wyckoff.space_group(225).formula`` lists the representatives.

    ## Action space
    ``Box(-1, 1, (27 + S + 9,), float32)`` for S symbols, X included; see :class:`megen_gym.actions.WyckoffCodec`:

    | index | meaning | -1 ... +1 |
    | --- | --- | --- |
    | 0 ... 26 | score of each letter a ... z, A; the highest that the element allows is taken | |
    | 27 ... 26+S | score of each symbol; the highest that is allowed is taken, X ends the list | |
    | next three | coordinates x, y, z, of which only the free ones count | 0 ... 1 |
    | last six | volume, b/a, c/a (logarithms), alpha, beta, gamma; only the free ones count | the ranges |

    Where the lattice is set only the last six numbers count, at a site all but those. The volume is that per atom
    where the sites are known (lattice last); lattice first, it runs from the smallest volume of the smallest crystal
    that the group allows to the largest of the largest, and the masks then allow only numbers of atoms that suit it.

    ## Observation space
    A flat ``Dict`` for K = `n_max` sites, N = `max_atoms` atoms, S symbols:

    | key | shape | meaning |
    | --- | --- | --- |
    | spacegroup | (1,) int16 | its number |
    | site_letters | (K,) int8 | 1 for a ... 27 for A; 0 where there is no site yet |
    | site_elements | (K,) int8 | index into the symbols, 0 where there is no site yet |
    | site_coordinates | (3 K,) float32 | representative of each site, fractional |
    | lattice | (6,) float32 | a, b, c in Å, alpha, beta, gamma in degrees; 0 until it is set |
    | lattice_next | (1,) 0/1 | the next action sets the lattice |
    | letter_mask | (27,) 0/1 | letters that the next site may have |
    | element_mask | (S,) 0/1 | elements that it may have; index 0 (X): the list may end here |
    | site_mask | (27 S,) 0/1 | both together: letter i with element j is entry S i + j |
    | positions | (3 N,) float32 | Å, all atoms, site by site; zeros until the lattice is set |
    | species | (N,) int8 | index into the symbols, 0 where empty |
    | bag | (S,) int16 | most atoms of each element that may still come |
    | focus_mask | (N,) 0/1 | where there is an atom |
    | cell | (9,) float32 | Å, lattice vectors a, b, c one after the other; zeros until the lattice is set |
    | pbc | (3,) 0/1 | ones |

    All masks of sites are zero where the lattice is next.

    ## Rewards
    Any name of :func:`megen_gym.rewards.make_reward`; it sees the expanded crystals. Lattice first: the lattice earns
    0, each site what the crystal with it is worth beyond the one without it, X earns 0. Lattice last: sites and X earn
    0, and the lattice is judged as the step from nothing to the whole crystal. With an energy both sum up to the same.
    A reward about the placed atom (`contacts`, `novelty`) looks at the last atom of the last site; its equivalents have
    the same surroundings. A refused move earns `min_reward`, or what the reward sets for it.

    ## Starting state
    No sites, no lattice; or the list of sites in `start`, which every episode goes on with: letters only from its last
    one on, and only sites after which the composition can be completed. Each site is a letter, an element and up to
    three coordinates of the position's representative, missing ones 0 where they are free ("a Ba; e O 1/2 0 0.1"). With
    `start_lattice` the lattice is there too, and the first step already adds a site. All `spacegroup` must have them.

    Nobody is paid for what is there at the start: a reward sees it as the crystal that the first site is added to. With
    the lattice last there is no crystal before the lattice, and the whole one is judged.

    ## Episode end
    *Terminated* when the list has ended and the lattice is set, or a move is refused (with ``on_refusal="end"``): atoms
    of the new site, or of the crystal in its new lattice, are nearer than `min_distance` to one another or to an image.
    *Truncated* at the step limit, or when the reward cannot be computed; ``info["error"]`` says why.

    ## Info
    As :class:`megen_gym.envs.clusters.ClusterEnv`: `placed` (atoms were added and judged), `valid` (a site or a lattice
    was accepted), `refused`, `stopped`, `all_valid`, `n_start` (atoms of a start that has a lattice), the terms of the
    reward, `error`.

    ## Arguments
    | name | default | meaning |
    | --- | --- | --- |
    | spacegroup | 221 | number or symbol ("Fm-3m"), or several of them |
    | draw | "cycle" | several groups: in turn, or a "random" one for each episode |
    | composition | "BaTiO3" unless `elements` are given | exact formula; as many units as `max_atoms` allow |
    | elements | those of the composition | without a composition: what the sites may hold, in any proportion |
    | n_atoms | None | atoms of the conventional cell, exactly |
    | n_max | 16 | sites at most |
    | max_atoms | 40 | atoms of the conventional cell at most |
    | lattice | "first" | or "last" |
    | volume_range | (5, 60) | Å³ per atom |
    | max_aspect | 8 | largest ratio of a and b, and of a and c |
    | angle_range | (40, 140) | degrees, of those that are free |
    | min_distance | smallest covalent radius | Å, guard: atoms nearer than this are refused; 0 switches it off |
    | on_refusal | "end" | or "skip": the move is lost, the episode goes on |
    | start | None | sites that are there from the start: "a Ba 0 0 0; b Ti", or a list of such sites |
    | start_lattice | None | and (lattice first) their lattice: a, b, c, alpha, beta, gamma, or the free ones of them |
    | min_reward | the reward's | floor of a step's reward, and what a refused move earns |
    | reward, reward_kwargs | "contacts", None | the judge and its JSON-able arguments |
    | render_mode | None | "ansi", "rgb_array", "human" |

    ## Version history
    * v0: first version. After CrystalFormer (arXiv 2403.15734) and crystal_gpt.
    """

    build = staticmethod(crystal_wyckoff)


class CrystalWyckoffVectorEnv(KeywordVectorEnv):
    """`num_envs` episodes of :class:`CrystalWyckoffEnv` side by side, with the same arguments."""

    build = staticmethod(crystal_wyckoff)
