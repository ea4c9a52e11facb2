"""G-SchNet as a policy of Molecule-v0 and Cluster-v0: the published way of growing, one placement a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_masses, atomic_numbers
from numpy.typing import NDArray
from torch import Tensor

from megen_gym.actions import Placement
from megen_gym.agents.gschnet.asking import values_of
from megen_gym.agents.gschnet.collate import packed, pairs_of
from megen_gym.agents.gschnet.model import Model, load_model
from megen_gym.agents.gschnet.sampling import Drawing, Grower, Growth
from megen_gym.agents.gschnet.steps import Canvas, moved
from megen_gym.errors import InputError
from megen_gym.structure import BoolArray, FloatArray, IntArray
from megen_gym.tasks.base import Observation
from megen_gym.tasks.cluster import ClusterTask


@dataclass(eq=False)
class Memory:
    """What the policy remembers of B episodes.

    Attributes:
        closed: (B, C) atoms beside which nothing more is placed.
        origin: (B, 3) Å, where the centre of mass shall be.
    """

    closed: BoolArray
    origin: FloatArray

    def copy(self) -> Memory:
        """Another with the same content."""
        return Memory(self.closed.copy(), self.origin.copy())


class GSchNetPolicy:
    """Grows molecules as the model does, inside the masks of the environment; a policy with SB3's ``predict``.

    Molecule-v0 and the cluster environments, with elements that the model knows. After G-SchNet (Gebauer et al.,
    NeurIPS 2019; Nat. Commun. 13, 973 (2022), doi 10.1038/s41467-022-28526-y).

    A step draws a focus and what comes next beside it until something is to be placed; foci for which the model said
    stop are remembered in the state. If all are finished the policy stops, or, where the environment does not offer
    that, goes on with what the model finds likeliest to be placed.

    Args:
        run: Run id, run folder, "newest", or a :class:`.model.Model`.
        env: The environment that is to be played (single or vector), or its task.
        dir: Folder of the run folders.
        drawing: Grid and temperature, by default as generate.py has them; places that the environment refuses by their
            distance are never drawn.
        condition: Value of each condition of the model.
        seed: Of the draws.

    Raises:
        InputError: for an environment that the model cannot play.
    """

    def __init__(
        self,
        run: str | Path | Model,
        env: Any,
        dir: str | Path = "runs",
        drawing: Drawing | None = None,
        condition: Mapping[str, object] | None = None,
        seed: int = 0,
    ) -> None:
        self.model = run if isinstance(run, Model) else load_model(run, dir)[0]
        task = getattr(getattr(env, "unwrapped", env), "task", env)
        if not isinstance(task, ClusterTask):
            raise InputError("G-SchNet plays Molecule-v0, Cluster-v0 and GaCluster-v0; give such an environment")
        if any(self.model.pbc):
            raise InputError("the model was trained on periodic structures, which these environments do not have")
        shape = self.model.network.shape
        numbers = [atomic_numbers[name] for name in task.symbols[1:]]
        strange = [name for name, z in zip(task.symbols[1:], numbers, strict=True) if z not in shape.atom_types]
        if strange:
            raise InputError(
                f"the environment has {', '.join(strange)}, which the model has never seen; make it with other "
                "symbols, or train on such atoms"
            )
        drawing = drawing or Drawing(grid_distance_min=self.model.grid_distance_min)
        low = max(drawing.grid_distance_min, task.codec.shortest)
        high = min(shape.placement_cutoff, task.codec.longest)
        if low >= high:
            raise InputError(
                f"the environment places atoms at {task.codec.shortest} to {task.codec.longest} Å, the model at "
                f"{drawing.grid_distance_min} to {shape.placement_cutoff} Å; make the environment with such a "
                "distance_range"
            )
        self.task = task
        self.numbers = np.array([0, *numbers])
        self.type_of = np.array([-1, *(shape.atom_types.index(z) for z in numbers)])
        self.element_of = np.zeros(len(shape.atom_types), dtype=np.int64)
        self.element_of[self.type_of[1:]] = np.arange(1, len(task.symbols))
        near = Drawing(drawing.grid_spacing, low, drawing.temperature_term, drawing.tolerance)
        self.grower = Grower(self.model.network, near, np.random.default_rng(seed), high)
        values = values_of(self.model.conditions, condition or {}) if self.model.conditions or condition else None
        self.given = None if values is None else self.model.network.embed(values).detach()  # type: ignore[union-attr]

    def predict(
        self,
        observation: Observation,
        state: Memory | None = None,
        episode_start: BoolArray | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.float32], Memory]:
        """The next placement, or stop.

        Args:
            observation: Of one environment, or of B.
            state: What :meth:`predict` gave before.
            episode_start: (B,) episodes that begin.
            deterministic: Take the first focus, the likeliest element and the likeliest voxel.

        Returns:
            Actions (B, 6), or (6,) for a single observation, and what is remembered.
        """
        single = observation["species"].ndim == 1
        batch = {name: np.atleast_2d(value) for name, value in observation.items()}
        memory, growth = self._seen(batch, state, episode_start)
        size, stop = len(growth.count), len(self.grower.types)
        allowed, may_stop = self._allowed(batch)
        nothing = np.zeros(size, dtype=np.int64)
        choice = Placement(nothing, nothing.copy(), np.ones(size), np.tile([0.0, 0.0, 1.0], (size, 1)))
        waiting = allowed.any(1) & (growth.unfinished | ~may_stop)
        while waiting.any():
            rows = np.flatnonzero(waiting)
            forced = ~growth.unfinished[rows]
            growth.open[rows[forced], 1:] = growth.numbers[rows[forced], 1:] > 0
            done = self.grower.decide(growth, rows, allowed[rows], forced, deterministic)
            placed = done.kind != stop
            mine, place = rows[placed], done.place[placed]
            distance = np.linalg.norm(place, axis=1)
            choice.focus[mine] = np.maximum(done.focus[placed] - 1, 0)
            choice.element[mine] = self.element_of[done.kind[placed]]
            choice.distance[mine] = np.maximum(distance, self.task.codec.shortest)
            choice.direction[mine] = place / np.maximum(distance, 1e-9)[:, None]
            first = growth.count[mine] == 1
            memory.origin[mine[first]] = -place[first]
            waiting[mine] = False
            waiting &= growth.unfinished | ~may_stop
        closed = (growth.numbers[:, 1:] > 0) & ~growth.open[:, 1:]
        memory.closed[:, : closed.shape[1]] = closed[:, : memory.closed.shape[1]]
        action = self.task.codec.encode(choice, batch["focus_mask"], batch["element_mask"]).astype(np.float32)
        return (action[0] if single else action), memory

    def log_prob(self, observation: Observation, action: FloatArray, state: Memory | None = None) -> Tensor:
        """(B,) logarithm of the probability of actions (B, 6), differentiable in the weights of the model.

        That of focus and element is summed over all orders in which foci can be drawn, see :func:`stopping`. The place
        counts as the voxel nearest to it; the first atom has none.

        Args:
            observation: Of B environments.
            action: (B, 6).
            state: What was remembered when it was drawn; nothing is finished by default.
        """
        batch = {name: np.atleast_2d(value) for name, value in observation.items()}
        _, growth = self._seen(batch, state, None)
        allowed, may_stop = self._allowed(batch)
        choice = self.task.codec.decode(
            np.atleast_2d(action).astype(np.float64), batch["focus_mask"], batch["element_mask"]
        )
        row, node = np.nonzero(growth.numbers[:, 1:] > 0)
        empty = np.flatnonzero(growth.count == 0)
        row, node = np.concatenate([row, empty]), np.concatenate([node + 1, np.zeros(len(empty), dtype=np.int64)])
        order = row.argsort(kind="stable")
        row, node = row[order], node[order]
        canvas = self._canvas(growth, row, node)
        given = None if self.given is None else self.given.expand(len(growth.count), -1)
        features = self.model.network.rows(canvas, given)
        kinds = self.model.network.type_log_prob(features, canvas.seen_canvas, len(row)).double()
        barred = ~np.concatenate([allowed, (growth.count > 0)[:, None]], 1)[row]
        kinds = kinds.masked_fill(torch.from_numpy(barred), -torch.inf).log_softmax(1)
        open_ = torch.from_numpy(growth.open[row, node] | (node == 0))
        before, all_stop = stopping(kinds[:, -1].exp(), open_, torch.from_numpy(row), len(growth.count))
        wanted = np.where(growth.count > 0, choice.focus + 1, 0)
        hit = np.flatnonzero((node == wanted[row]) & (choice.element > 0)[row])
        mine = row[hit]
        again = torch.from_numpy(~may_stop[mine] / np.maximum(growth.count[mine], 1)) * all_stop[mine]
        goes = 1 - kinds[hit, -1].exp()
        share = torch.where(open_[hit], before[hit], 0.0) + again / goes.clamp(min=1e-12)
        kind = torch.from_numpy(self.type_of[choice.element[mine]])
        total = torch.where(torch.from_numpy(choice.element > 0), torch.tensor(0.0).double(), all_stop.log())
        total = total.index_add(0, torch.from_numpy(mine), kinds[hit, kind] + share.log())
        later = hit[growth.count[mine] > 0]
        if len(later):
            mine = row[later]
            density = self.model.network.density(
                canvas, features, torch.from_numpy(later), torch.from_numpy(self.numbers[choice.element[mine]])
            )
            goal = torch.from_numpy(choice.distance[mine, None] * choice.direction[mine])
            voxel = self.grower.grid.log_prob(density, self.grower.drawing.temperature_term, goal).double()
            total = total.index_add(0, torch.from_numpy(mine), voxel)
        return total

    def _allowed(self, batch: Observation) -> tuple[BoolArray, BoolArray]:
        """Types that may be placed (B, types), and whether the episode may be stopped (B,)."""
        mask = batch["element_mask"] > 0
        allowed = np.zeros((len(mask), len(self.grower.types)), dtype=bool)
        allowed[:, self.type_of[1:]] = mask[:, 1:]
        return allowed, mask[:, 0]

    def _seen(self, batch: Observation, state: Memory | None, episode_start: BoolArray | None) -> tuple[Memory, Growth]:
        """What is remembered, and the canvases as the model sees them."""
        species = batch["species"].astype(np.int64)
        size, slots = species.shape
        positions = batch["positions"].reshape(size, slots, 3).astype(np.float64)
        numbers = self.numbers[species]
        mass = atomic_masses[numbers] * (numbers > 0)
        centre = (mass[..., None] * positions).sum(1) / np.maximum(mass.sum(1), 1e-9)[:, None]
        memory = Memory(np.zeros((size, slots), dtype=bool), centre) if state is None else state.copy()
        if episode_start is not None:
            new = np.atleast_1d(episode_start)
            memory.closed[new], memory.origin[new] = False, centre[new]
        count = (numbers > 0).sum(1)
        most = min(int(count.max()) + 1, slots)
        growth = self.grower.begin(size, most)
        growth.given = None if self.given is None else self.given.expand(size, -1)
        there = numbers[:, :most] > 0
        growth.numbers[:, 1:], growth.count[:] = numbers[:, :most], count
        growth.positions[:, 1:] = (positions[:, :most] - memory.origin[:, None]) * there[..., None]
        growth.open[:, 1:] = there & ~memory.closed[:, :most]
        return memory, growth

    def _canvas(self, growth: Growth, row: IntArray, node: IntArray) -> Canvas:
        """The canvas of each molecule (R,), with each focus (R,)."""
        reach = self.model.network.reach
        pairs = pairs_of(growth.positions, growth.count + 1, reach)
        canvas = packed(growth.positions, growth.numbers, row, growth.count[row], node, reach, None, pairs)
        return moved(canvas, self.grower.device)


def stopping(stop: Tensor, open_: Tensor, row: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Foci of B molecules are drawn without replacement until one does not stop.

    Args:
        stop: (R,) probability that a focus stops.
        open_: (R,) foci that can be drawn.
        row: (R,) molecule of each.
        size: B.

    Returns:
        Probability that a focus is drawn and all drawn before it stop (R,): the integral over u from 0 to 1 of the
        product over the others of 1 - u (1 - stop), a polynomial that Gauss-Legendre quadrature integrates exactly;
        and that all of a molecule's stop (B,).
    """
    most = int(torch.bincount(row, weights=open_.double(), minlength=size).max().item())
    nodes, weights = np.polynomial.legendre.leggauss(most // 2 + 1)
    u, w = torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
    each = torch.log1p(-u * (1 - stop[:, None])) * open_[:, None]
    product = torch.zeros(size, len(u), dtype=stop.dtype).index_add(0, row, each)
    before = ((product[row] - each).exp() * w).sum(1)
    logs = torch.where(open_, stop.clamp(min=1e-300).log(), 0.0)
    return before, torch.zeros(size, dtype=stop.dtype).index_add(0, row, logs).exp()
