"""From the bag to the canvas: clusters and molecules, one atom per step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import gymnasium as gym
import numpy as np

from megen_gym.actions import FocalCodec
from megen_gym.bags import Bags
from megen_gym.errors import InputError
from megen_gym.periodic import Lattice
from megen_gym.rules import PlacementRules
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch, check_symbols
from megen_gym.tasks.base import Move, Observation


@dataclass
class ClusterState:
    """B canvases and bags.

    Attributes:
        positions: (B, C, 3) Å, float64; atoms first, then zeros.
        species: (B, C) index into the task's symbols, 0 where empty.
        n_atoms: (B,) atoms on the canvas.
        n_start: (B,) atoms there when the episode began.
        bag: (B, S) atoms left to place.
        refill: (B, S) what the bag is refilled with when it is empty.
        refills: (B,) how often that may still happen.
        steps: (B,) moves made.
        over: (B,) stopped by the policy, or ended by a refused move.
    """

    positions: FloatArray
    species: IntArray
    n_atoms: IntArray
    n_start: IntArray
    bag: IntArray
    refill: IntArray
    refills: IntArray
    steps: IntArray
    over: BoolArray


@dataclass(frozen=True)
class Starts:
    """Structures that episodes begin from, one drawn at random for each; the empty canvas is a start of size 0.

    Attributes:
        positions: (M, C, 3) Å, centred.
        species: (M, C) index.
        bag: (M, S) atoms to place on this start, or None where the task's bags decide.
    """

    positions: FloatArray
    species: IntArray
    bag: IntArray | None = None

    @classmethod
    def empty(cls, canvas_size: int) -> Starts:
        """The empty canvas alone."""
        return cls(np.zeros((1, canvas_size, 3)), np.zeros((1, canvas_size), dtype=np.int64))

    @classmethod
    def from_batch(cls, batch: StructureBatch, canvas_size: int, bag: IntArray | None = None) -> Starts:
        """Structures centred at the origin and padded to the canvas.

        Raises:
            InputError: when a structure is larger than the canvas.
        """
        largest = int(batch.n_atoms.max())
        if largest > canvas_size:
            raise InputError(
                f"a starting structure has {largest} atoms but the canvas holds {canvas_size}; "
                "raise canvas_size or leave that structure out"
            )
        centre = batch.positions.sum(1) / batch.n_atoms[:, None]
        starts = cls(np.zeros((len(batch), canvas_size, 3)), np.zeros((len(batch), canvas_size), dtype=np.int64), bag)
        starts.positions[:, :largest] = ((batch.positions - centre[:, None]) * batch.mask[..., None])[:, :largest]
        starts.species[:, :largest] = batch.species[:, :largest]
        return starts


class ClusterTask:
    """Place the atoms of a bag on a canvas, each at a distance and direction from an atom that is there.

    Args:
        symbols: X and the elements.
        canvas_size: C, the most atoms that fit.
        bags: What an episode may place.
        codec: Meaning of an action.
        rules: Guards and windows of a placement.
        starts: Where episodes begin; the empty canvas by default.
        refills: How often an empty bag is filled again.
        stop: Whether X may be chosen to end the episode with atoms left.
        scaffold: (F, 4) half-spaces a x + b y + c z + d <= 0 (Å) of a convex hull that atoms must stay inside.
        on_refusal: "end" the episode at a refused move, or "skip" the move.

    Raises:
        InputError: when the canvas cannot hold the largest bag on the largest start.
    """

    observation_space: gym.spaces.Dict
    action_space: gym.spaces.Box
    lattice: Lattice | None = None

    def __init__(
        self,
        symbols: tuple[str, ...],
        canvas_size: int,
        bags: Bags,
        codec: FocalCodec,
        rules: PlacementRules,
        *,
        starts: Starts | None = None,
        refills: int = 0,
        stop: bool = False,
        scaffold: FloatArray | None = None,
        on_refusal: Literal["end", "skip"] = "end",
    ) -> None:
        self.symbols = check_symbols(symbols)
        self.canvas_size, self.bags, self.codec, self.rules = canvas_size, bags, codec, rules
        self.starts = starts or Starts.empty(canvas_size)
        self.refills, self.stop, self.scaffold, self.on_refusal = refills, stop, scaffold, on_refusal
        if on_refusal not in ("end", "skip"):
            raise InputError(f"on_refusal is {on_refusal!r}; give 'end' or 'skip'")
        if refills < 0:
            raise InputError(f"refills is {refills}; give 0 or more")
        sizes = (self.starts.species > 0).sum(1)
        if self.starts.bag is not None:
            largest = int((sizes + self.starts.bag.sum(1)).max())
        else:
            largest = canvas_size if bags.free else int(sizes.max()) + bags.largest * (1 + refills)
        if largest > canvas_size:
            raise InputError(
                f"the bag makes up to {largest} atoms but the canvas holds {canvas_size}; "
                f"give canvas_size={largest} or a smaller bag"
            )
        self.draws = 1 + bags.draws
        self.max_steps = largest if on_refusal == "end" else 4 * largest
        extent = float(np.abs(self.starts.positions).max()) + codec.longest * largest
        most = max(bags.largest, 1 if self.starts.bag is None else int(self.starts.bag.max()))
        slots, kinds = canvas_size, len(self.symbols)
        self.observation_space = gym.spaces.Dict(
            {
                "positions": gym.spaces.Box(-np.ceil(extent), np.ceil(extent), (3 * slots,), np.float32),
                "species": gym.spaces.Box(0, kinds - 1, (slots,), np.int8),
                "bag": gym.spaces.Box(0, most, (kinds,), np.int16),
                "focus_mask": gym.spaces.MultiBinary(slots),
                "element_mask": gym.spaces.MultiBinary(kinds),
            }
        )
        self.action_space = gym.spaces.Box(-1.0, 1.0, (codec.size,), np.float32)

    def initial(self, uniform: FloatArray, episode: IntArray) -> ClusterState:
        """A start drawn for each row and a full bag; see :class:`megen_gym.tasks.base.Task`."""
        which = (uniform[:, 0] * len(self.starts.positions)).astype(np.int64)
        species = self.starts.species[which]
        bag = self.bags.draw(uniform[:, 1:], episode) if self.starts.bag is None else self.starts.bag[which]
        n_atoms, zeros = (species > 0).sum(1), np.zeros(len(episode), dtype=np.int64)
        return ClusterState(
            positions=self.starts.positions[which],
            species=species,
            n_atoms=n_atoms,
            n_start=n_atoms.copy(),
            bag=bag,
            refill=bag.copy(),
            refills=zeros + self.refills,
            steps=zeros.copy(),
            over=np.zeros(len(episode), dtype=bool),
        )

    def transition(self, state: ClusterState, action: FloatArray) -> tuple[ClusterState, Move]:
        """Place one atom per row where the rules let it in; an episode that is over stays as it is."""
        rows, count = np.arange(len(state.n_atoms)), state.n_atoms
        masks = self._focus_mask(state), self._element_mask(state)
        choice = self.codec.decode(action.astype(np.float64), *masks)
        origin = np.where((count > 0)[:, None], state.positions[rows, choice.focus], 0.0)
        point = origin + np.where((count > 0)[:, None], choice.distance[:, None] * choice.direction, 0.0)
        offset = state.positions - point[:, None]
        distances = np.sqrt(np.einsum("bcx,bcx->bc", offset, offset))
        distances[state.species == 0] = np.inf
        running = ~self.terminal(state)
        stopped = running & (choice.element == 0)
        placed = running & ~stopped & self.rules.allowed(distances, count) & self.inside(point)
        valid = placed & self.rules.valid(distances, count)

        r = np.flatnonzero(placed)
        positions, species, bag = state.positions.copy(), state.species.copy(), state.bag.copy()
        positions[r, count[r]] = point[r]
        species[r, count[r]] = choice.element[r]
        bag[r, choice.element[r]] -= 1
        empty = placed & (bag.sum(1) == 0) & (state.refills > 0)
        refused = running & ~placed & ~stopped
        new = replace(
            state,
            positions=positions,
            species=species,
            n_atoms=count + placed,
            bag=np.where(empty[:, None], state.refill, bag),
            refills=state.refills - empty,
            steps=state.steps + running,
            over=state.over | stopped | (refused if self.on_refusal == "end" else False),
        )
        return new, Move(choice, placed, valid, refused, stopped)

    def observation(self, state: ClusterState) -> Observation:
        """The padded arrays of :attr:`observation_space`."""
        return {
            "positions": state.positions.reshape(len(state.positions), -1).astype(np.float32),
            "species": state.species.astype(np.int8),
            "bag": state.bag.astype(np.int16),
            "focus_mask": self._focus_mask(state).astype(np.int8),
            "element_mask": self._element_mask(state).astype(np.int8),
        }

    def terminal(self, state: ClusterState) -> BoolArray:
        """Episodes with an empty bag, a full canvas, a stop, or a refused move that ends them."""
        return np.asarray(state.over | (state.bag.sum(1) == 0) | (state.n_atoms >= self.canvas_size))

    def structures(self, state: ClusterState) -> StructureBatch:
        """The canvases, unpadded no further than C."""
        return StructureBatch.trusted(state.positions, state.species, self.symbols)

    def _focus_mask(self, state: ClusterState) -> BoolArray:
        return state.species > 0

    def _element_mask(self, state: ClusterState) -> BoolArray:
        mask = state.bag > 0
        mask[:, 0] = self.stop & (state.n_atoms > 0)
        return mask

    def inside(self, point: FloatArray) -> BoolArray:
        """(K,) whether points (K, 3) (Å) lie within the scaffold; all of them where there is none."""
        if self.scaffold is None:
            return np.ones(len(point), dtype=bool)
        return np.asarray(np.all(point @ self.scaffold[:, :3].T + self.scaffold[:, 3] <= 1e-9, axis=1))
