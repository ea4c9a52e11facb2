"""The contract between a task (physics, pure functions on arrays) and the shells that step it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import gymnasium as gym
from numpy.typing import NDArray

from megen_gym.actions import Placement, Site, SiteChoice
from megen_gym.periodic import Lattice
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch

Observation = dict[str, NDArray[Any]]
S = TypeVar("S")


@dataclass
class Move:
    """What became of a batch of actions, (B,) each.

    Attributes:
        placement: The decoded actions.
        placed: An atom was added, and the move is judged by the reward.
        valid: It was added, and keeps the task's windows.
        refused: The guards turned the move down; the structure is as it was.
        stopped: The stop action was taken.
    """

    placement: Placement | Site | SiteChoice
    placed: BoolArray
    valid: BoolArray
    refused: BoolArray
    stopped: BoolArray


class Task(Protocol[S]):
    """Pure functions on a state whose fields are arrays with B rows.

    Attributes:
        observation_space: Space of one observation.
        action_space: Space of one action; Discrete where it is the index of an element.
        symbols: Element of each species index; 0 is X.
        lattice: The cell that structures stand in; None for clusters and molecules.
        draws: Uniform random numbers that the start of an episode takes.
        max_steps: Steps after which an episode is truncated.
    """

    observation_space: gym.spaces.Dict
    symbols: tuple[str, ...]
    draws: int
    max_steps: int

    @property
    def action_space(self) -> gym.spaces.Box | gym.spaces.Discrete: ...

    @property
    def lattice(self) -> Lattice | None: ...

    def initial(self, uniform: FloatArray, episode: IntArray) -> S:
        """Starting states from (B, draws) uniform numbers and the (B,) episode numbers of the environments."""

    def transition(self, state: S, action: FloatArray) -> tuple[S, Move]:
        """The next states and what became of the (B, A) or (B,) actions; `state` is left as it is."""

    def observation(self, state: S) -> Observation:
        """What a policy sees, (B, ...) arrays."""

    def terminal(self, state: S) -> BoolArray:
        """(B,) episodes that are over."""

    def structures(self, state: S) -> StructureBatch:
        """The structures on the canvas."""


def put(state: S, rows: IntArray, other: S) -> S:
    """`state` with its `rows` replaced by the rows of `other`."""
    fields = {}
    for field in dataclasses.fields(state):  # type: ignore[arg-type]
        array = getattr(state, field.name).copy()
        array[rows] = getattr(other, field.name)
        fields[field.name] = array
    return dataclasses.replace(state, **fields)  # type: ignore[type-var]
