"""The slots of a crystal, filled one per step: in a place of the cell, beside an atom, or by an element for a site."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from megen_gym.actions import ElementCodec, FocalCodec, FractionalCodec, Placement, Site
from megen_gym.errors import InputError
from megen_gym.rules import PlacementRules
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch
from megen_gym.tasks.base import Move, Observation
from megen_gym.tasks.template import EDGE, Template


@dataclass
class SlotState:
    """B partly filled cells.

    Attributes:
        positions: (B, N, 3) Å, float64, inside the cell; atoms first, then zeros.
        species: (B, N) index into the task's symbols, 0 where there is no atom.
        n_atoms: (B,) atoms in the cell.
        site: (B,) slots that are filled or left empty for good; the number of the next one.
        bag: (B, S) atoms left to place.
        first: (B, S) slot where the first atom of each element goes, if the cell is empty and the action is focal.
        steps: (B,) moves made.
        over: (B,) stopped by the policy, or ended by a refused move.
    """

    positions: FloatArray
    species: IntArray
    n_atoms: IntArray
    site: IntArray
    bag: IntArray
    first: IntArray
    steps: IntArray
    over: BoolArray


@dataclass
class Proposal:
    """Where a batch of actions would put an atom.

    Attributes:
        choice: The decoded actions.
        element: (B,) species index; 0 for none.
        point: (B, 3) Å, inside the cell along periodic axes.
        distances: (B, N) Å to the nearest image of each atom, infinite where there is none.
        possible: (B,) false for an element or a place that is not to be had.
        allowed: (B,) an atom may stand there: possible, and the guards hold.
        valid: (B,) and so do the windows.
    """

    choice: Placement | Site
    element: IntArray
    point: FloatArray
    distances: FloatArray
    possible: BoolArray
    allowed: BoolArray
    valid: BoolArray


class SlotsTask(ABC):
    """Fill the free slots of a template; see the subclasses for what an action is.

    Args:
        template: Cell, slots, and the atoms that stand there from the start.
        rules: Guards and windows of a placement, by the distances to the nearest images.
        free: Species that may be placed in any number; None for the composition of the template's free slots.
        on_refusal: "end" the episode at a refused move, or "skip" the move.
        stop: What X means: nothing (never allowed), "stop" the episode, or leave the site "vacant".
    """

    observation_space: gym.spaces.Dict
    action_space: gym.spaces.Box | gym.spaces.Discrete
    codec: FocalCodec | FractionalCodec | ElementCodec
    draws = 0

    def __init__(
        self,
        template: Template,
        rules: PlacementRules,
        *,
        free: Sequence[int] | None = None,
        on_refusal: Literal["end", "skip"] = "end",
        stop: Literal["stop", "vacant"] | None = None,
    ) -> None:
        if on_refusal not in ("end", "skip"):
            raise InputError(f"on_refusal is {on_refusal!r}; give 'end' or 'skip'")
        self.template, self.lattice, self.rules = template, template.lattice, rules
        self.symbols, self.canvas_size = template.symbols, len(template)
        self.on_refusal, self.stop = on_refusal, stop
        self.free = None if free is None else np.isin(np.arange(len(self.symbols)), list(free))
        slots, kinds, steps = len(template), len(self.symbols), len(template) - template.n_kept
        self.max_steps = steps if on_refusal == "end" else 4 * steps
        corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) @ self.lattice.cell
        extent = float(np.ceil(np.abs(corners).max() + 1e-3))
        longest = float(np.ceil(np.abs(self.lattice.cell).max() + 1e-3))
        self.observation_space = gym.spaces.Dict(
            {
                "positions": gym.spaces.Box(-extent, extent, (3 * slots,), np.float32),
                "species": gym.spaces.Box(0, kinds - 1, (slots,), np.int8),
                "bag": gym.spaces.Box(0, slots, (kinds,), np.int16),
                "focus_mask": gym.spaces.MultiBinary(slots),
                "element_mask": gym.spaces.MultiBinary(kinds),
                "cell": gym.spaces.Box(-longest, longest, (9,), np.float32),
                "pbc": gym.spaces.MultiBinary(3),
            }
        )

    @abstractmethod
    def decode(self, state: SlotState, action: Any) -> tuple[Placement | Site, FloatArray, BoolArray]:
        """The choice, its point (B, 3) Å, and whether (B,) it is to be had."""

    def element_mask(self, state: SlotState) -> BoolArray:
        """(B, S) elements that may be placed now; index 0 stops, or leaves a site vacant."""
        mask = (state.bag > 0) & (state.site < self.canvas_size)[:, None]
        mask[:, 0] = (self.stop is not None) & (state.site < self.canvas_size)
        if self.stop == "stop":
            mask[:, 0] &= state.n_atoms > 0
        return mask

    def initial(self, uniform: FloatArray, episode: IntArray) -> SlotState:
        """The kept atoms and a full bag; see :class:`megen_gym.tasks.base.Task`."""
        size, kept, template = len(episode), self.template.n_kept, self.template
        stands = np.arange(len(template)) < kept
        zeros = np.zeros(size, dtype=np.int64)
        counts = template.counts() if self.free is None else (len(template) - kept) * self.free
        return SlotState(
            positions=np.tile(template.positions * stands[:, None], (size, 1, 1)),
            species=np.tile(template.species * stands, (size, 1)),
            n_atoms=zeros + kept,
            site=zeros + kept,
            bag=np.tile(counts, (size, 1)),
            first=np.zeros((size, len(self.symbols)), dtype=np.int64),
            steps=zeros,
            over=np.zeros(size, dtype=bool),
        )

    def propose(self, state: SlotState, action: Any) -> Proposal:
        """What `action` means in `state`, judged by the rules; nothing is placed."""
        choice, point, possible = self.decode(state, action)
        point = self.lattice.wrap(point)
        offset = self.lattice.minimum_image(state.positions - point[:, None])
        distances = np.sqrt(np.einsum("bcx,bcx->bc", offset, offset))
        distances[state.species == 0] = np.inf
        allowed = possible & (choice.element > 0) & self.rules.allowed(distances, state.n_atoms)
        valid = allowed & self.rules.valid(distances, state.n_atoms)
        return Proposal(choice, choice.element, point, distances, possible, allowed, valid)

    def transition(self, state: SlotState, action: Any) -> tuple[SlotState, Move]:
        """Fill one slot per row where the rules let it; an episode that is over stays as it is."""
        made = self.propose(state, action)
        running = ~self.terminal(state)
        none = running & made.possible & (made.element == 0)
        stopped, vacant = none & (self.stop == "stop"), none & (self.stop == "vacant")
        placed = running & made.allowed
        refused = running & ~placed & ~none

        r = np.flatnonzero(placed)
        positions, species, bag, count = state.positions.copy(), state.species.copy(), state.bag.copy(), state.n_atoms
        positions[r, count[r]] = made.point[r]
        species[r, count[r]] = made.element[r]
        if self.free is None:
            bag[r, made.element[r]] -= 1
        else:
            bag -= (placed | vacant)[:, None] * self.free
        new = replace(
            state,
            positions=positions,
            species=species,
            n_atoms=count + placed,
            site=state.site + (placed | vacant),
            bag=bag,
            steps=state.steps + running,
            over=state.over | stopped | (refused if self.on_refusal == "end" else False),
        )
        return new, Move(made.choice, placed, made.valid & placed, refused, stopped)

    def observation(self, state: SlotState) -> Observation:
        """The padded arrays of :attr:`observation_space`."""
        size = len(state.site)
        return {
            "positions": state.positions.reshape(size, -1).astype(np.float32),
            "species": state.species.astype(np.int8),
            "bag": state.bag.astype(np.int16),
            "focus_mask": (state.species > 0).astype(np.int8),
            "element_mask": self.element_mask(state).astype(np.int8),
            "cell": np.tile(self.lattice.cell.reshape(-1).astype(np.float32), (size, 1)),
            "pbc": np.tile(np.array(self.lattice.pbc, dtype=np.int8), (size, 1)),
        }

    def terminal(self, state: SlotState) -> BoolArray:
        """Episodes with no slot left, a stop, or a refused move that ends them."""
        return np.asarray(state.over | (state.site >= self.canvas_size))

    def structures(self, state: SlotState) -> StructureBatch:
        """The cells with the atoms that stand in them."""
        cell = np.broadcast_to(self.lattice.cell, (len(state.site), 3, 3))
        return StructureBatch.trusted(state.positions, state.species, self.symbols, cell, self.lattice.pbc)

    def read(self, observation: Observation) -> SlotState:
        """The state that a batch of observations shows (coordinates in their float32), to try moves on."""
        species = observation["species"].astype(np.int64)
        size, n_atoms = len(species), (species > 0).sum(1)
        steps = np.zeros(size, dtype=np.int64)
        return SlotState(
            positions=observation["positions"].reshape(size, -1, 3).astype(np.float64),
            species=species,
            n_atoms=n_atoms,
            site=self._sites_done(observation, n_atoms),
            bag=observation["bag"].astype(np.int64),
            first=np.zeros((size, len(self.symbols)), dtype=np.int64),
            steps=steps,
            over=np.zeros(size, dtype=bool),
        )

    def _sites_done(self, observation: Observation, n_atoms: IntArray) -> IntArray:
        return n_atoms


class FractionalSlots(SlotsTask):
    """Fill the slots in order, each at fractional coordinates; the element is the slot's own, or part of the action.

    Args:
        template, rules, free, on_refusal: As in :class:`SlotsTask`.
        species: Whether the element is part of the action.
    """

    codec: FractionalCodec

    def __init__(self, template: Template, rules: PlacementRules, *, species: bool = False, **options: Any) -> None:
        super().__init__(template, rules, **options)
        self.codec = FractionalCodec(len(self.symbols) if species else 0)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (self.codec.size,), np.float32)

    def element_mask(self, state: SlotState) -> BoolArray:
        """(B, S) the element of the next slot, or what may stand there."""
        mask = super().element_mask(state)
        if self.codec.scores:
            return mask
        own = self.template.species[np.minimum(state.site, self.canvas_size - 1)]
        return np.asarray(mask & (own[:, None] == np.arange(len(self.symbols))))

    def decode(self, state: SlotState, action: Any) -> tuple[Placement | Site, FloatArray, BoolArray]:
        """Any point of the cell is to be had."""
        site = self.codec.decode(action.astype(np.float64), self.element_mask(state))
        return site, self.lattice.cartesian(site.fractions), site.element > 0


class FocalSlots(SlotsTask):
    """Take an atom out of the bag and put it beside an atom of the cell, as on a cluster's canvas.

    The first atom of an empty cell goes to a slot of its element, drawn when the episode begins; one that no slot of
    the template holds, to any slot.

    Args:
        template, rules, free, on_refusal, stop: As in :class:`SlotsTask`.
        codec: Meaning of an action.
    """

    codec: FocalCodec

    def __init__(self, template: Template, rules: PlacementRules, codec: FocalCodec, **options: Any) -> None:
        super().__init__(template, rules, **options)
        self.codec = codec
        self.action_space = gym.spaces.Box(-1.0, 1.0, (codec.size,), np.float32)
        self.draws = len(self.symbols)
        slots = [np.flatnonzero(template.species == kind) for kind in range(len(self.symbols))]
        slots = [own if len(own) else np.arange(len(template)) for own in slots]
        self._count = np.array([len(own) for own in slots])
        self._slot = np.stack([np.resize(own, len(template)) for own in slots])

    def initial(self, uniform: FloatArray, episode: IntArray) -> SlotState:
        """As :meth:`SlotsTask.initial`, with a place for the first atom."""
        draw = (uniform * self._count).astype(np.int64)
        return replace(super().initial(uniform, episode), first=self._slot[np.arange(len(self.symbols)), draw])

    def decode(self, state: SlotState, action: Any) -> tuple[Placement | Site, FloatArray, BoolArray]:
        """Points outside the cell along an axis that is not periodic are not to be had."""
        mask = self.element_mask(state)
        choice = self.codec.decode(action.astype(np.float64), state.species > 0, mask)
        rows = np.arange(len(mask))
        beside = state.positions[rows, choice.focus] + choice.distance[:, None] * choice.direction
        first = self.template.positions[state.first[rows, choice.element]]
        point = np.where((state.n_atoms > 0)[:, None], beside, first)
        fractions = self.lattice.fractional(point)
        inside = ((fractions > -EDGE) & (fractions < 1 + EDGE)) | np.array(self.lattice.pbc)
        return choice, point, mask[rows, choice.element] & (inside.all(1) | (choice.element == 0))


class SpeciesSlots(SlotsTask):
    """Choose an element for one site of the template after the other; the action is the element's index.

    Args:
        template, rules, free, on_refusal, stop: As in :class:`SlotsTask`.
    """

    codec: ElementCodec

    def __init__(self, template: Template, rules: PlacementRules, **options: Any) -> None:
        super().__init__(template, rules, **options)
        self.codec = ElementCodec(len(self.symbols))
        self.action_space = gym.spaces.Discrete(len(self.symbols))
        positions = self.observation_space["positions"]
        assert isinstance(positions, gym.spaces.Box)
        self.observation_space = gym.spaces.Dict(
            {
                **self.observation_space.spaces,
                "sites": gym.spaces.Box(positions.low, positions.high, dtype=np.float32),  # type: ignore[arg-type]
                "next_site": gym.spaces.MultiBinary(len(template)),
            }
        )

    def decode(self, state: SlotState, action: Any) -> tuple[Placement | Site, FloatArray, BoolArray]:
        """An element is to be had where its mask says so; the point is that of the next site."""
        element, allowed = self.codec.decode(np.asarray(action).reshape(-1), self.element_mask(state))
        point = self.template.positions[np.minimum(state.site, self.canvas_size - 1)]
        return Site(element, self.lattice.fractional(point)), point, allowed

    def observation(self, state: SlotState) -> Observation:
        """As :meth:`SlotsTask.observation`, with the sites and the one that comes next."""
        size, slots = len(state.site), np.arange(self.canvas_size)
        sites = np.tile(self.template.positions.reshape(-1).astype(np.float32), (size, 1))
        coming = (slots == state.site[:, None]).astype(np.int8)
        return {**super().observation(state), "sites": sites, "next_site": coming}

    def _sites_done(self, observation: Observation, n_atoms: IntArray) -> IntArray:
        coming = observation["next_site"]
        return np.where(coming.any(1), coming.argmax(1), self.canvas_size)
