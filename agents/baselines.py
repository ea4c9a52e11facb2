"""Baselines that every agent has to beat: random valid placement, and the greedy best of k.

Both look at the geometry only (greedy: and at the reward), learn nothing, and play any task of clusters or crystals.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from megen_gym.actions import Placement, rank_to_index
from megen_gym.errors import InputError
from megen_gym.rewards.base import EnergyReward, Reward
from megen_gym.rollout import structures_of
from megen_gym.structure import BoolArray, FloatArray, IntArray, StructureBatch
from megen_gym.tasks.base import Observation
from megen_gym.tasks.cluster import ClusterTask
from megen_gym.tasks.slots import FocalSlots, SlotsTask, SpeciesSlots
from megen_gym.tasks.wyckoff import WyckoffTask

S = TypeVar("S")

FADE = 0.05
"""Width of the edge of a contact, in longest distances."""


class Candidates(NamedTuple):
    """K moves for each of B structures.

    Attributes:
        actions: (B, K, A), or (B, K) where actions are discrete.
        valid: (B, K) whether the windows hold.
        allowed: (B, K) whether the guards do.
        point: (B, K, 3) Å that they reach.
        element: (B, K) species index; 0 places nothing.
    """

    actions: Any
    valid: BoolArray
    allowed: BoolArray
    point: FloatArray
    element: IntArray


class RandomValid:
    """Uniform focus, distance and direction (or coordinates, or element), redrawn until the placement keeps the task's
    rules and windows.

    Args:
        task: The task that is played.
        seed: Seed of the policy's own generator.
        tries: Candidates drawn per decision; where none is valid, the first that the guards allow is taken.
    """

    def __init__(self, task: ClusterTask | SlotsTask | WyckoffTask, seed: int = 0, tries: int = 256) -> None:
        self.task, self.tries = task, tries
        self.rng = np.random.default_rng(seed)

    def predict(
        self, observation: Observation, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[FloatArray, Any]:
        """A valid random placement per row; `deterministic` changes nothing, for there is nothing to prefer."""
        single = observation["species"].ndim == 1
        batch = {key: np.atleast_2d(value) for key, value in observation.items()}
        action = self._choose(batch)
        return (action[0] if single else action), state

    def _choose(self, batch: Observation) -> FloatArray:
        found = self._candidates(batch)
        best = (2 * found.valid + 1 * found.allowed).argmax(1)
        return np.asarray(found.actions[np.arange(len(best)), best])

    def _candidates(self, batch: Observation) -> Candidates:
        if isinstance(self.task, WyckoffTask):
            return self._of_sites(batch, self.task)
        return self._in_cell(batch) if isinstance(self.task, SlotsTask) else self._on_canvas(batch, self.task)

    def _of_sites(self, batch: Observation, task: WyckoffTask) -> Candidates:
        size, tries = len(batch["species"]), self.tries
        wide = repeated_rows(task.read(batch), tries)
        draft = self.rng.uniform(-1, 1, (size * tries, task.codec.size)).astype(np.float32)
        made = task.propose(wide, draft)
        good = (made.allowed | made.stops).reshape(size, tries)
        point = np.zeros((size, tries, 3))
        return Candidates(draft.reshape(size, tries, -1), good, good, point, made.choice.element.reshape(size, tries))

    def _in_cell(self, batch: Observation) -> Candidates:
        assert isinstance(self.task, SlotsTask)
        task, tries = self.task, self.tries
        state = task.read(batch)
        size = len(state.site)
        wide = repeated_rows(state, tries)
        draft: Any
        if isinstance(task, SpeciesSlots):
            mask = task.element_mask(wide)
            draft = rank_to_index((self.rng.random(len(mask)) * mask.sum(1)).astype(np.int64), mask)
        else:
            draft = self.rng.uniform(-1, 1, (size * tries, *(task.action_space.shape or ())))
            if isinstance(task, FocalSlots):
                direction = self.rng.normal(size=(size * tries, 3))
                draft[:, 3:] = direction / np.linalg.norm(direction, axis=1, keepdims=True)
            draft = draft.astype(np.float32)
        made = task.propose(wide, draft)
        empty = made.possible & (made.element == 0)
        return Candidates(
            draft.reshape(size, tries, *draft.shape[1:]),
            (made.valid | (empty & (task.stop == "vacant"))).reshape(size, tries),
            (made.allowed | empty).reshape(size, tries),
            made.point.reshape(size, tries, 3),
            made.element.reshape(size, tries),
        )

    def _on_canvas(self, batch: Observation, task: ClusterTask) -> Candidates:
        size, tries = len(batch["species"]), self.tries
        masks = [np.repeat(batch[name], tries, axis=0) for name in ("focus_mask", "element_mask")]
        uniform = self.rng.uniform(-1, 1, size=(size * tries, 3))
        direction = self.rng.normal(size=(size * tries, 3))
        draft = np.concatenate([uniform, direction / np.linalg.norm(direction, axis=1, keepdims=True)], axis=1)
        choice = task.codec.decode(draft, *masks)
        actions = task.codec.encode(Placement(*choice), *masks).astype(np.float32)
        canvas = structures_of(batch, task.symbols)
        count = canvas.n_atoms[:, None]
        focus = choice.focus.reshape(size, tries)
        offset = (choice.distance[:, None] * choice.direction).reshape(size, tries, 3)
        point = np.take_along_axis(canvas.positions, focus[..., None], axis=1) + offset
        point = np.where(count[..., None] > 0, point, 0.0)
        squared = (
            (point**2).sum(-1)[..., None]
            + (canvas.positions**2).sum(-1)[:, None]
            - 2 * point @ canvas.positions.transpose(0, 2, 1)
        )
        distances = np.where(canvas.mask[:, None], np.sqrt(np.maximum(squared, 0)), np.inf)
        allowed, valid = task.rules.allowed(distances, count), task.rules.valid(distances, count)
        return Candidates(actions.reshape(size, tries, -1), valid, allowed, point, choice.element.reshape(size, tries))


class Compact(RandomValid):
    """Random valid placement that prefers many neighbours: candidates are drawn with probability
    ``exp(contacts / temperature)``, and no energy is asked for.

    A contact counts 1 up to the task's longest distance and fades out behind it.

    Args:
        task: The task that is played.
        seed: Seed of the policy's own generator.
        tries: Candidates drawn per decision.
        temperature: In contacts; 0 takes the candidate with the most.

    Raises:
        InputError: for a task without positions to choose.
    """

    def __init__(
        self, task: ClusterTask | SlotsTask | WyckoffTask, seed: int = 0, tries: int = 256, temperature: float = 0.3
    ) -> None:
        super().__init__(task, seed, tries)
        if not isinstance(task, ClusterTask):
            raise InputError("'compact' counts neighbours on a canvas; give it clusters or molecules")
        if temperature < 0:
            raise InputError(f"temperature is {temperature}; give a number of contacts, 0 or more")
        self.reach, self.temperature = task.codec.longest, temperature

    def predict(
        self, observation: Observation, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[FloatArray, Any]:
        """A compact placement per row; the one with the most contacts if `deterministic`."""
        chosen, self.temperature = self.temperature, 0.0 if deterministic else self.temperature
        try:
            return super().predict(observation, state, episode_start)
        finally:
            self.temperature = chosen

    def _choose(self, batch: Observation) -> FloatArray:
        found = self._candidates(batch)
        canvas = structures_of(batch, self.task.symbols)
        offset = found.point[:, :, None] - canvas.positions[:, None]
        ratio = np.sqrt(np.einsum("bknx,bknx->bkn", offset, offset)) / self.reach
        fading = 1 / (1 + np.exp(np.minimum((ratio - 1.05) / FADE, 50)))
        contacts = (fading * canvas.mask[:, None]).sum(2) + 100.0 * (2 * found.valid + found.allowed)
        if self.temperature > 0:
            contacts = contacts / self.temperature + self.rng.gumbel(size=contacts.shape)
        return np.asarray(found.actions[np.arange(len(contacts)), contacts.argmax(1)])


class Greedy(RandomValid):
    """The best by the reward among k random valid placements.

    Args:
        task: The task that is played.
        reward: The judge; it is asked k times per decision.
        k: Candidates judged.
        seed: Seed of the policy's own generator.
        tries: Candidates drawn, of which up to k valid ones are judged.
    """

    def __init__(
        self, task: ClusterTask | SlotsTask | WyckoffTask, reward: Reward, k: int = 40, seed: int = 0, tries: int = 512
    ) -> None:
        super().__init__(task, seed, tries)
        self.reward, self.k = reward, k

    def _choose(self, batch: Observation) -> FloatArray:
        found = self._candidates(batch)
        order = np.argsort(-(2 * found.valid + 1 * found.allowed), axis=1, kind="stable")[:, : self.k]
        rows = np.arange(len(order))[:, None]
        actions, good = found.actions[rows, order], found.valid[rows, order]
        size, k = order.shape
        if isinstance(self.task, WyckoffTask):
            state = repeated_rows(self.task.read(batch), k)
            new, move = self.task.transition(state, actions.reshape(size * k, -1))
            before = self.task.structures(state)
            known = None
            if isinstance(self.reward, EnergyReward):
                known = {"energy": np.repeat(self.reward.energy_errors(before[::k])[0], k)}
            outcome = self.reward(before, self.task.structures(new), known)
            value = np.where(move.placed, outcome.value, 0.0).reshape(size, k)
        else:
            before = structures_of(batch, self.task.symbols, self.task.lattice)
            repeated = before[np.repeat(np.arange(size), k)]
            after = _add(repeated, found.point[rows, order].reshape(-1, 3), found.element[rows, order].reshape(-1))
            value = self._worth(repeated, after).reshape(size, k)
        best = np.where(good, value, value - 1e6).argmax(1)
        return np.asarray(actions[np.arange(size), best])

    def _worth(self, before: StructureBatch, after: StructureBatch) -> FloatArray:
        """Of an energy only that afterwards is asked for: the one before is the same for all candidates."""
        if not isinstance(self.reward, EnergyReward):
            return self.reward(before, after).value
        energy, _ = self.reward.energy_errors(after)
        return np.where(np.isfinite(energy), -energy, -np.inf)


def repeated_rows(state: S, times: int) -> S:
    """A task's state with each row repeated."""
    repeated = {field.name: np.repeat(getattr(state, field.name), times, axis=0) for field in fields(state)}  # type: ignore[arg-type]
    return replace(state, **repeated)  # type: ignore[type-var]


def _add(batch: StructureBatch, point: FloatArray, element: IntArray) -> StructureBatch:
    """`batch` with one more atom in each structure."""
    rows, count = np.arange(len(batch)), batch.n_atoms
    positions = np.concatenate([batch.positions, np.zeros((len(batch), 1, 3))], axis=1)
    species = np.concatenate([batch.species, np.zeros((len(batch), 1), dtype=np.int64)], axis=1)
    positions[rows, count], species[rows, count] = point, element
    return StructureBatch.trusted(positions, species, batch.symbols, batch.cell, batch.pbc)
