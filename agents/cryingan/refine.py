"""A generator proposes, an agent refines: CrystalSlots-v0 with actions that move the proposed atoms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from scipy.special import ndtri

from megen_gym.actions import Site
from megen_gym.agents.cryingan.networks import GAN
from megen_gym.agents.cryingan.policy import slot_fractions, slot_order
from megen_gym.errors import InputError
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch
from megen_gym.tasks.base import Move, Observation
from megen_gym.tasks.slots import FractionalSlots


@dataclass
class RefineState:
    """The inner task's state, by field, and the proposals (B, N, 3) in fractions of the cell."""

    inner: Any
    proposal: FloatArray
    steps: IntArray


class RefineTask:
    """Each step takes the next atom that the generator proposes and moves it by at most `radius`.

    A task like any other: ``StructureEnv(RefineTask(...), reward)`` and ``StructureVectorEnv(n, RefineTask(...),
    reward)`` are environments for any agent. The action is ``Box(-1, 1, (3,))``, the displacement along x, y, z in
    units of `radius`; the zero action is the generator's own structure. The observation is the inner task's, with
    ``proposal`` (3 N,) in Å.

    Args:
        task: Fractional slots whose positions are free.
        gan: A model of its template.
        radius: Å.

    Raises:
        InputError: for a task that the generator cannot play, or a radius that is not positive.
    """

    action_space: gym.spaces.Box

    def __init__(self, task: FractionalSlots, gan: GAN, radius: float = 0.3) -> None:
        slot_order(gan, task)
        if not 0 < radius < np.inf:
            raise InputError(f"radius is {radius} Å; give the largest displacement, above 0")
        self.task, self.gan, self.radius = task, gan, float(radius)
        self.symbols, self.lattice, self.max_steps = task.symbols, task.lattice, task.max_steps
        self.size = int(gan.generator.latent_size)
        self.draws = task.draws + self.size
        self.action_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
        spaces = dict(task.observation_space.spaces)
        places = spaces["positions"]
        assert isinstance(places, gym.spaces.Box)
        spaces["proposal"] = gym.spaces.Box(places.low, places.high, dtype=np.float32)  # type: ignore[arg-type]
        self.observation_space = gym.spaces.Dict(spaces)

    def initial(self, uniform: FloatArray, episode: IntArray) -> RefineState:
        """A proposal for each row, from its own uniform numbers; see :class:`megen_gym.tasks.base.Task`."""
        z = ndtri(uniform[:, : self.size].clip(1e-9, 1 - 1e-9)).astype(np.float32)
        proposal = slot_fractions(self.gan, self.task, torch.from_numpy(z))
        inner = self.task.initial(uniform[:, self.size :], episode)
        return RefineState(inner, proposal - np.floor(proposal), inner.steps)

    def transition(self, state: RefineState, action: FloatArray) -> tuple[RefineState, Move]:
        """Place the next atom of each proposal, displaced."""
        lattice = self.task.lattice
        slot = np.minimum(state.inner.site, self.task.canvas_size - 1)
        place = state.proposal[np.arange(len(slot)), slot]
        moved = place + lattice.fractional(self.radius * np.clip(np.nan_to_num(action.astype(np.float64)), -1, 1))
        moved = np.where(np.array(lattice.pbc), moved - np.floor(moved), moved.clip(0, 1))
        element = self.task.template.species[slot]
        inner, move = self.task.transition(state.inner, self.task.codec.encode(Site(element, moved)))
        return RefineState(inner, state.proposal, inner.steps), move

    def observation(self, state: RefineState) -> Observation:
        """The inner task's, and the proposal."""
        places = self.task.lattice.cartesian(state.proposal).reshape(len(state.proposal), -1)
        return {**self.task.observation(state.inner), "proposal": places.astype(np.float32)}

    def terminal(self, state: RefineState) -> BoolArray:
        """As the inner task."""
        return self.task.terminal(state.inner)

    def structures(self, state: RefineState) -> StructureBatch:
        """As the inner task."""
        return self.task.structures(state.inner)
