"""A crystal as a list of Wyckoff sites and a lattice, one site per step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import gymnasium as gym
import numpy as np

from megen_gym.actions import SiteChoice, WyckoffCodec
from megen_gym.errors import InputError
from megen_gym.lattices import LatticeRange, cells_of, family_of
from megen_gym.periodic import Lattice
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch
from megen_gym.tasks.base import Move, Observation
from megen_gym.tasks.contacts import PERIODIC, apart
from megen_gym.tasks.reach import Goals, Reach
from megen_gym.tasks.sites import SiteProposal, WyckoffState, appended, rows_of
from megen_gym.tasks.start import Start
from megen_gym.wyckoff import LETTERS, SpaceGroup, wyckoff_table

ONE_PLACE = 1e-3
"""Parts of the cell; start sites as near as this are in one place in any lattice."""


class WyckoffTask:
    """Write a crystal: the sites in the order of their letters, X, and the lattice before or after them.

    Args:
        symbols: X and the elements.
        groups: Space groups of the episodes.
        goals: Compositions that the list may end with.
        n_max: K, sites at most.
        max_atoms: N, atoms at most.
        lattice: Whether the lattice is set "first" or "last".
        bounds: What lattices there are.
        min_distance: Å, guard: atoms nearer than this are refused; 0 switches it off.
        draw: Groups in turn ("cycle"), or a "random" one for each episode.
        on_refusal: "end" the episode at a refused move, or "skip" the move.
        start: Sites, and with the lattice first also a lattice, that every episode begins with.
    """

    lattice: Lattice | None = None
    action_space: gym.spaces.Box

    def __init__(
        self,
        symbols: tuple[str, ...],
        groups: Sequence[SpaceGroup],
        goals: Goals,
        *,
        n_max: int = 16,
        max_atoms: int = 40,
        lattice: Literal["first", "last"] = "first",
        bounds: LatticeRange | None = None,
        min_distance: float = 0.5,
        draw: Literal["cycle", "random"] = "cycle",
        on_refusal: Literal["end", "skip"] = "end",
        start: Start | None = None,
    ) -> None:
        for name, value, known in (
            ("lattice", lattice, ("first", "last")),
            ("draw", draw, ("cycle", "random")),
            ("on_refusal", on_refusal, ("end", "skip")),
        ):
            if value not in known:
                raise InputError(f"{name} is {value!r}; give {known[0]!r} or {known[1]!r}")
        if not 0 <= min_distance < np.inf:
            raise InputError(f"min_distance is {min_distance} Å; give a finite distance, 0 for no guard")
        self.symbols, self.groups, self.bounds = symbols, tuple(groups), bounds or LatticeRange()
        self.n_max, self.max_atoms, self.min_distance = n_max, max_atoms, float(min_distance)
        self.first, self.random, self.on_refusal = lattice == "first", draw == "random", on_refusal
        self.reach = Reach(self.groups, goals, n_max, apart=self.first)
        self.goals, self.draws = goals, int(self.random)
        self._numbers = np.array([group.number for group in self.groups])
        self._family = family_of(self._numbers)
        self._position = wyckoff_table().first[self._numbers]
        self._possible, self._extremes = self.reach.possible, (self.reach.fewest_atoms, self.reach.most_atoms)
        self._begin = self._started(start or Start())
        self.max_steps = (n_max + 2) * (1 if on_refusal == "end" else 4)
        self.codec = WyckoffCodec(len(LETTERS), len(symbols))
        self.action_space = gym.spaces.Box(-1.0, 1.0, (self.codec.size,), np.float32)
        kinds, longest = len(symbols), float(np.ceil(self.bounds.longest(max_atoms)))
        parameters = np.array([longest] * 3 + [180.0] * 3, dtype=np.float32)
        box, bits = gym.spaces.Box, gym.spaces.MultiBinary
        self.observation_space = gym.spaces.Dict(
            {
                "spacegroup": box(1, 230, (1,), np.int16),
                "site_letters": box(0, len(LETTERS), (n_max,), np.int8),
                "site_elements": box(0, kinds - 1, (n_max,), np.int8),
                "site_coordinates": box(0.0, 1.0, (3 * n_max,), np.float32),
                "lattice": box(np.zeros(6, dtype=np.float32), parameters, dtype=np.float32),
                "lattice_next": bits(1),
                "letter_mask": bits(len(LETTERS)),
                "element_mask": bits(kinds),
                "site_mask": bits(len(LETTERS) * kinds),
                "positions": box(-3 * longest, 3 * longest, (3 * max_atoms,), np.float32),
                "species": box(0, kinds - 1, (max_atoms,), np.int8),
                "bag": box(0, max_atoms, (kinds,), np.int16),
                "focus_mask": bits(max_atoms),
                "cell": box(-longest, longest, (9,), np.float32),
                "pbc": bits(3),
            }
        )

    def lattice_next(self, state: WyckoffState) -> BoolArray:
        """(B,) the next action sets the lattice."""
        return ~state.has_lattice & (self.first | state.listed)

    def site_mask(self, state: WyckoffState) -> BoolArray:
        """(B, 27, S) letters and elements that a site may take now; X is never among them."""
        mask = state.open[:, :, self.goals.axis]
        mask[:, :, self.goals.axis < 0] = False
        return np.asarray(mask)

    def initial(self, uniform: FloatArray, episode: IntArray) -> WyckoffState:
        """The sites and the lattice of the start, if any; see :class:`megen_gym.tasks.base.Task`."""
        group = (uniform[:, 0] * len(self.groups)).astype(np.int64) if self.random else episode % len(self.groups)
        return rows_of(self._begin, group)

    def propose(self, state: WyckoffState, action: FloatArray) -> SiteProposal:
        """What `action` means in `state`, judged by the guard; nothing is changed."""
        choice = self.codec.decode(action.astype(np.float64), self.site_mask(state), state.may_stop)
        sets = self.lattice_next(state)
        fills = ~sets & ~state.listed & (choice.element > 0)
        stops = ~sets & ~state.listed & (choice.element == 0) & state.may_stop
        lattice = state.lattice.copy()
        if sets.any():
            lattice[sets] = self._decoded_lattice(state.group[sets], state.n_atoms[sets], choice.lattice[sets])
        position = self._position[state.group] + np.where(fills, choice.letter, 0)
        orbit, mask = wyckoff_table().expand(position, choice.coordinates)
        mask = mask & fills[:, None]
        allowed = fills | sets
        if self.min_distance > 0:
            allowed &= self._apart(state, lattice, orbit, mask, sets)
        return SiteProposal(choice, lattice, orbit, mask, sets, stops, allowed)

    def transition(self, state: WyckoffState, action: FloatArray) -> tuple[WyckoffState, Move]:
        """Fill a site, end the list, or set the lattice, where the guard lets it; what is over stays as it is."""
        made = self.propose(state, action)
        running = ~self.terminal(state)
        stopped = running & made.stops
        done = running & made.allowed
        sets, filled = done & made.sets, done & ~made.sets
        refused = running & ~stopped & ~done

        new = self._filled(state, made, filled)
        cell = state.cell.copy()
        cell[sets] = cells_of(made.lattice[sets])
        new = replace(
            new,
            lattice=np.where(sets[:, None], made.lattice, state.lattice),
            cell=cell,
            has_lattice=state.has_lattice | sets,
            listed=state.listed | stopped,
            steps=state.steps + running,
            over=state.over | (refused if self.on_refusal == "end" else False),
        )
        if self.first and sets.any():
            layers = self.reach.layers_for(np.linalg.det(cell), self.bounds.volume) & self._possible[state.group]
            new = replace(new, layers=np.where(sets[:, None], layers, state.layers))
        new = self._masked(new)
        placed = filled if self.first else sets
        return new, Move(made.choice, placed, done, refused, stopped)

    def observation(self, state: WyckoffState) -> Observation:
        """The padded arrays of :attr:`observation_space`."""
        size, sites = len(state.group), self.site_mask(state)
        elements = np.asarray(sites.any(1))
        elements[:, 0] = state.may_stop
        batch = self.structures(state)
        left = np.where(self.goals.axis >= 0, (self.reach.most - state.counts)[:, self.goals.axis], 0)
        return {
            "spacegroup": self._numbers[state.group][:, None].astype(np.int16),
            "site_letters": (state.letters + 1).astype(np.int8),
            "site_elements": state.elements.astype(np.int8),
            "site_coordinates": state.coordinates.reshape(size, -1).astype(np.float32),
            "lattice": state.lattice.astype(np.float32),
            "lattice_next": self.lattice_next(state)[:, None].astype(np.int8),
            "letter_mask": np.asarray(sites.any(2)).astype(np.int8),
            "element_mask": elements.astype(np.int8),
            "site_mask": sites.reshape(size, -1).astype(np.int8),
            "positions": batch.positions.reshape(size, -1).astype(np.float32),
            "species": batch.species.astype(np.int8),
            "bag": left.astype(np.int16),
            "focus_mask": batch.mask.astype(np.int8),
            "cell": (state.cell * state.has_lattice[:, None, None]).reshape(size, -1).astype(np.float32),
            "pbc": np.ones((size, 3), dtype=np.int8),
        }

    def terminal(self, state: WyckoffState) -> BoolArray:
        """Crystals that are complete, or ended by a refused move."""
        return np.asarray(state.over | (state.listed & state.has_lattice))

    def structures(self, state: WyckoffState) -> StructureBatch:
        """The crystals so far; without a lattice there are no atoms yet."""
        species = state.species * state.has_lattice[:, None]
        positions = state.fractions @ state.cell * (species > 0)[..., None]
        return StructureBatch.trusted(positions, species, self.symbols, state.cell, PERIODIC)

    def read(self, observation: Observation) -> WyckoffState:
        """The state that a batch of observations shows (numbers in their float32), to try moves on."""
        size = len(observation["species"])
        group = np.array([self._numbers.tolist().index(int(n)) for n in observation["spacegroup"][:, 0]])
        state = self._empty(group)
        lattice = observation["lattice"].astype(np.float64)
        has = np.asarray(lattice.any(1))
        state = replace(
            state,
            lattice=lattice,
            has_lattice=has,
            cell=np.where(has[:, None, None], cells_of(np.where(has[:, None], lattice, 1.0)), state.cell),
        )
        if self.first:
            layers = self.reach.layers_for(np.linalg.det(state.cell), self.bounds.volume)
            state = replace(state, layers=layers & self._possible[group] & has[:, None])
        letters, elements = (observation[key].astype(np.int64) for key in ("site_letters", "site_elements"))
        coordinates = observation["site_coordinates"].reshape(size, -1, 3).astype(np.float64)
        state = self._listed(state, letters - 1, elements, coordinates)
        ended = observation["lattice_next"][:, 0] > 0
        return self._masked(replace(state, listed=ended & (not self.first)))

    def lattice_numbers(self, state: WyckoffState, parameters: FloatArray, clip: bool = False) -> FloatArray:
        """(B, 6) the part of an action that sets lattices with `parameters` (B, 6) Å and degrees in `state`.

        Raises:
            InputError: for a lattice outside the task's ranges, unless it is clipped to them.
        """
        return self.bounds.encode(parameters, self._family[state.group], *self._sizes(state.group, state.n_atoms), clip)

    def volume_span(self, state: WyckoffState) -> tuple[FloatArray, FloatArray]:
        """(B,) Å³, smallest and largest volume that the first lattice number of an action stands for in `state`."""
        fewest, most = self._sizes(state.group, state.n_atoms)
        return self.bounds.volume[0] * fewest, self.bounds.volume[1] * most

    def _sizes(self, group: IntArray, n_atoms: IntArray) -> tuple[IntArray, IntArray]:
        """(B,) atoms that the smallest and the largest volume are meant for."""
        if self.first:
            return self._extremes[0][group], self._extremes[1][group]
        return np.maximum(n_atoms, 1), np.maximum(n_atoms, 1)

    def _empty(self, group: IntArray) -> WyckoffState:
        size, sites, atoms = len(group), self.n_max, self.max_atoms
        zeros = np.zeros(size, dtype=np.int64)
        none = np.zeros(size, dtype=bool)
        axes = self.goals.counts.shape[1]
        state = WyckoffState(
            group=group.astype(np.int64),
            letters=np.full((size, sites), -1),
            elements=np.zeros((size, sites), dtype=np.int64),
            coordinates=np.zeros((size, sites, 3)),
            n_sites=zeros,
            low=zeros,
            counts=np.zeros((size, axes), dtype=np.int64),
            layers=self.reach.possible[group] & (not self.first),
            open=np.zeros((size, len(LETTERS), axes), dtype=bool),
            may_stop=none,
            lattice=np.zeros((size, 6)),
            cell=np.tile(np.eye(3), (size, 1, 1)),
            has_lattice=none,
            fractions=np.zeros((size, atoms, 3)),
            species=np.zeros((size, atoms), dtype=np.int64),
            n_atoms=zeros,
            listed=none,
            steps=zeros,
            over=none,
        )
        return self._masked(state)

    def _started(self, start: Start) -> WyckoffState:
        """(G,) the state that episodes of each group begin with; volumes and goals are limited to what it leaves."""
        groups = np.arange(len(self.groups))
        state = self._empty(groups)
        if not start.sites and not start.lattice:
            return state
        if start.lattice and not self.first:
            raise InputError("start_lattice was given with lattice='last'; give lattice='first' too, or leave it out")
        letters, elements, coordinates = start.checked(self.groups, self.symbols, self.n_max)
        self._check_atoms(letters, elements)
        size = (len(groups), 1)
        state = self._listed(state, np.tile(letters, size), np.tile(elements, size), np.tile(coordinates, (*size, 1)))
        self._limit(state)
        cells, limit = state.cell, ONE_PLACE  # parts of the cell, as long as there is no lattice
        if start.lattice:
            lattice, limit = start.parameters(self.groups), self.min_distance
            self.bounds.encode(lattice, self._family, *self._extremes)
            cells = cells_of(lattice)
            volume = np.linalg.det(cells)
            layers = self.reach.layers_for(volume, self.bounds.volume) & self._possible
            state = replace(state, lattice=lattice, cell=cells, has_lattice=groups >= 0, layers=layers)
            if not layers.any(1).all():
                raise InputError(
                    f"start_lattice has {volume[layers.any(1).argmin()]:.1f} Å³, but no crystal that the start leaves "
                    f"has volume_range {self.bounds.volume} Å³ per atom in it; change the lattice or volume_range"
                )
        own, points = self._site_atoms(state)
        if self.min_distance > 0 and not apart(cells, points, own, state.fractions, state.species > 0, limit).all():
            near = f"nearer than min_distance {limit} Å to one another or an image" if start.lattice else "in one place"
            raise InputError(f"the atoms of the start are {near}; move or leave out sites, or lower min_distance")
        state = self._masked(state)
        if self.terminal(state).any():
            raise InputError("the start is a complete crystal with its lattice; leave something for the episode to do")
        return state

    def _masked(self, state: WyckoffState) -> WyckoffState:
        """`state` with its masks; a list that nothing can follow has ended."""
        left = self.n_max - state.n_sites
        writing = ~state.listed & ~state.over & (state.has_lattice | (not self.first))
        open_, may_stop = self.reach.masks(state.group, state.low, state.counts, left, state.layers)
        open_ = open_ & writing[:, None, None]
        ended = writing & ~open_.any((1, 2))
        return replace(state, open=open_, may_stop=may_stop & writing & ~ended, listed=state.listed | ended)

    def _check_atoms(self, letters: IntArray, elements: IntArray) -> None:
        """Refuse a start with more atoms of an element than any goal has."""
        axis = self.goals.axis[elements]
        counts = np.zeros((len(self.groups), len(self.reach.most)), dtype=np.int64)
        for site in np.flatnonzero(axis >= 0):
            counts[:, axis[site]] += self.reach.multiplicity[:, letters[site]]
        if (axis < 0).any() or (counts > self.reach.most).any():
            alien = (axis < 0) | (counts > self.reach.most).any(0)[axis]
            name = self.symbols[elements[int(alien.argmax())]]
            raise InputError(
                f"the start has more {name} than the composition with at most {self.max_atoms} atoms; "
                "take sites out of the start, or raise max_atoms"
            )

    def _limit(self, state: WyckoffState) -> None:
        """Keep the goals that can still be reached from `state` (G,), one row for each group."""
        goals = self._possible.shape[1]
        rows = rows_of(state, np.repeat(np.arange(len(self.groups)), goals))
        only = np.tile(np.eye(goals, dtype=bool), (len(self.groups), 1))
        open_, ends = self.reach.masks(rows.group, rows.low, rows.counts, self.n_max - rows.n_sites, only)
        self._possible = (open_.any((1, 2)) | ends).reshape(-1, goals)
        if not self._possible.any(1).all():
            group = self.groups[int(self._possible.any(1).argmin())]
            raise InputError(
                f"after the start no sites of space group {group.number} ({group.symbol}) complete the composition "
                f"within n_max {self.n_max} sites and max_atoms {self.max_atoms} atoms; take sites out of "
                "the start, or raise them"
            )
        if self.first:
            sizes = self.reach.sizes
            few, many = (np.where(self._possible, sizes, other) for other in (sizes.max(), sizes.min()))
            self._extremes = few.min(1), many.max(1)

    def _listed(
        self, state: WyckoffState, letters: IntArray, elements: IntArray, coordinates: FloatArray
    ) -> WyckoffState:
        """`state` with the sites (B, K) behind one another; letter -1 is none. Masks are not renewed."""
        size = len(letters)
        none = np.zeros(size, dtype=bool)
        for site in range(letters.shape[1]):
            filled = letters[:, site] >= 0
            if not filled.any():
                break
            letter = np.maximum(letters[:, site], 0)
            orbit, mask = wyckoff_table().expand(self._position[state.group] + letter, coordinates[:, site])
            choice = SiteChoice(letter, elements[:, site], coordinates[:, site], np.zeros((size, 6)))
            made = SiteProposal(choice, state.lattice, orbit, mask & filled[:, None], none, none, filled)
            state = self._filled(state, made, filled)
        return state

    def _filled(self, state: WyckoffState, made: SiteProposal, filled: BoolArray) -> WyckoffState:
        """`state` with one more site in the rows `filled`; masks are not renewed."""
        r, choice = np.flatnonzero(filled), made.choice
        letter, element, site = choice.letter[r], choice.element[r], state.n_sites[r]
        letters, elements = state.letters.copy(), state.elements.copy()
        coordinates, low, counts = state.coordinates.copy(), state.low.copy(), state.counts.copy()
        letters[r, site], elements[r, site] = letter, element
        coordinates[r, site] = made.orbit[r, 0]
        low[r] = letter + self.reach.full[state.group[r], letter]
        counts[r, self.goals.axis[element]] += self.reach.multiplicity[state.group[r], letter]
        mask = made.orbit_mask & filled[:, None]
        fractions, species = appended(state, made.orbit, mask, choice.element)
        return replace(
            state,
            letters=letters,
            elements=elements,
            coordinates=coordinates,
            n_sites=state.n_sites + filled,
            low=low,
            counts=counts,
            fractions=fractions,
            species=species,
            n_atoms=state.n_atoms + mask.sum(1),
        )

    def _apart(
        self, state: WyckoffState, lattice: FloatArray, orbit: FloatArray, mask: BoolArray, sets: BoolArray
    ) -> BoolArray:
        """(B,) whether a new site, or all sites in a new lattice, keep their distance; true without a lattice.

        One atom of each new site is enough: operations of the group take it to the others.
        """
        good = np.ones(len(sets), dtype=bool)
        at = np.flatnonzero(mask.any(1) & state.has_lattice)
        if len(at):
            fractions, species = appended(state, orbit, mask, np.ones(len(sets), dtype=np.int64))
            own = state.n_atoms[at, None]
            good[at] = apart(state.cell[at], orbit[at, :1], own, fractions[at], species[at] > 0, self.min_distance)
        at = np.flatnonzero(sets & (state.n_sites > 0))
        if len(at):
            own, points = self._site_atoms(state)
            atoms = state.species[at] > 0
            cells = cells_of(lattice[at])
            good[at] = apart(cells, points[at], own[at], state.fractions[at], atoms, self.min_distance)
        return good

    def _decoded_lattice(self, group: IntArray, n_atoms: IntArray, numbers: FloatArray) -> FloatArray:
        """(B, 6) the lattice that is meant; where it comes first, one whose volume suits a number of atoms."""
        parameters = self.bounds.decode(numbers, self._family[group], *self._sizes(group, n_atoms))
        if self.first:
            volume = np.linalg.det(cells_of(parameters))[:, None]
            low, high = (limit * self.reach.sizes for limit in self.bounds.volume)
            fitted = np.clip(volume, low, high)
            miss = np.where(self._possible[group], np.abs(np.log(fitted / volume)), np.inf)
            best = fitted[np.arange(len(fitted)), miss.argmin(1)]
            parameters[:, :3] *= ((best / volume[:, 0]) ** (1 / 3))[:, None]
        return parameters

    def _site_atoms(self, state: WyckoffState) -> tuple[IntArray, FloatArray]:
        """(B, K) index of each site's first atom, -1 where there is no site, and its coordinates (B, K, 3)."""
        here = state.letters >= 0
        size = self.reach.multiplicity[state.group[:, None], np.maximum(state.letters, 0)] * here
        own = np.where(here, np.cumsum(size, 1) - size, -1)
        return own, np.take_along_axis(state.fractions, np.maximum(own, 0)[..., None], 1)
