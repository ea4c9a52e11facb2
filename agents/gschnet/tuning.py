"""Reinforcement learning of whole molecules: grow, reward, and a few clipped steps up the policy gradient.

Proximal policy optimisation (Schulman et al., arXiv 1707.06347) on the decisions of G-SchNet: foci are drawn without
preference, so that a molecule's likelihood is the product of the probabilities of its types, stops and voxels. The
advantage of a molecule is its reward, less beta times the logarithm of the ratio to the model that tuning began with,
less a moving average; the same for all of its decisions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor, optim

from megen_gym.agents.gschnet.collate import packed, pairs_of
from megen_gym.agents.gschnet.generating import atoms_of
from megen_gym.agents.gschnet.model import Model
from megen_gym.agents.gschnet.network import GSchNet
from megen_gym.agents.gschnet.sampling import Drawing, Grower
from megen_gym.agents.gschnet.steps import moved
from megen_gym.agents.gschnet.tune_settings import Settings
from megen_gym.agents.nn.optimizers import load_optimizer, optimizer_tensors
from megen_gym.agents.nn.policy_gradient import policy_loss
from megen_gym.structure import BoolArray, FloatArray, IntArray

Judge = Callable[[Sequence[Atoms]], FloatArray]

DECAY = 0.9
"""Of the moving average that rewards are compared with."""


@dataclass(frozen=True, eq=False)
class Grown:
    """B molecules with all D decisions that made them, molecule by molecule.

    Attributes:
        positions: (B, K, 3) Å, node 0 the origin.
        numbers: (B, K).
        count: (B,) atoms.
        finished: (B,) molecules that were finished with the atoms allowed.
        molecule: (D,) ascending.
        placed: (D,) atoms before the decision.
        focus: (D,) node.
        kind: (D,) index of the type; their number for stop.
        place: (D, 3) Å of the new atom from the focus.
    """

    positions: FloatArray
    numbers: IntArray
    count: IntArray
    finished: BoolArray
    molecule: IntArray
    placed: IntArray
    focus: IntArray
    kind: IntArray
    place: FloatArray
    structures: list[Atoms]

    def __len__(self) -> int:
        return len(self.count)


def grow(grower: Grower, size: int, most: int, given: Tensor | None = None) -> Grown:
    """`size` molecules of at most `most` atoms, with their decisions."""
    growth = grower.begin(size, most, None if given is None else given.expand(size, -1))
    parts: list[tuple[IntArray, IntArray, IntArray, IntArray, FloatArray]] = []
    while growth.unfinished.any():
        rows = np.flatnonzero(growth.unfinished)
        before = growth.count[rows]
        done = grower.decide(growth, rows)
        kept = ~growth.failed[rows]
        parts.append(tuple(array[kept] for array in (rows, before, done.focus, done.kind, done.place)))  # type: ignore[arg-type]
    joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    order = joined[0].argsort(kind="stable")
    molecule, placed, focus, kind, place = (array[order] for array in joined)
    structures = [atoms_of(growth, row) for row in range(size)]
    width = int(growth.count.max()) + 1
    return Grown(
        growth.positions[:, :width], growth.numbers[:, :width], growth.count, ~growth.failed,
        molecule, placed, focus, kind, place, structures,
    )  # fmt: skip


def log_probs(network: GSchNet, grower: Grower, grown: Grown, rows: IntArray, given: Tensor | None = None) -> Tensor:
    """(D',) logarithm of the probability of each decision of some molecules (ascending), differentiable.

    The first radius is drawn among distance bins, all other places among voxels.
    """
    index = np.full(len(grown), -1)
    index[rows] = np.arange(len(rows))
    mine = np.flatnonzero(index[grown.molecule] >= 0)
    molecule, placed, kind = index[grown.molecule[mine]], grown.placed[mine], grown.kind[mine]
    positions, numbers = grown.positions[rows], grown.numbers[rows]
    pairs = pairs_of(positions, grown.count[rows] + 1, network.reach)
    canvas = packed(positions, numbers, molecule, placed, grown.focus[mine], network.reach, None, pairs)
    canvas = moved(canvas, grower.device)
    features = network.rows(canvas, None if given is None else given.expand(len(rows), -1))
    kinds = network.type_log_prob(features, canvas.seen_canvas, len(mine))
    stop = len(network.shape.atom_types)
    barred = np.zeros((len(mine), stop + 1), dtype=bool)
    barred[:, -1] = placed == 0
    kinds = kinds.masked_fill(torch.from_numpy(barred).to(grower.device), -torch.inf).log_softmax(1)
    total = kinds.gather(1, torch.from_numpy(kind)[:, None].to(grower.device))[:, 0]
    goals = grown.place[mine]
    first = np.flatnonzero((kind != stop) & (placed == 0))
    if len(first) and network.shape.origin:
        at = torch.from_numpy(first).to(grower.device)
        number = torch.from_numpy(np.array(network.shape.atom_types)[kind[first]]).to(grower.device)
        radius = torch.from_numpy(np.linalg.norm(goals[first], axis=1)).float().to(grower.device)
        chance = network.first_log_prob(network.density(canvas, features, at, number), radius)
        total = total.index_add(0, at, chance.to(total.dtype))
    places = np.flatnonzero((kind != stop) & (placed > 0))
    if not len(places):
        return total
    at = torch.from_numpy(places).to(grower.device)
    number = torch.from_numpy(np.array(network.shape.atom_types)[kind[places]]).to(grower.device)
    density = network.density(canvas, features, at, number)
    goal = torch.from_numpy(goals[places]).float().to(grower.device)
    voxel = grower.grid.log_prob(density, grower.drawing.temperature_term, goal)
    return total.index_add(0, at, voxel)


class Tuner:
    """Network, reference, optimiser and judge.

    Args:
        model: Tuned in place.
        judge: (B,) rewards of structures; NaN where there is none.
        settings: Resolved.
        given: (1, C) embedded conditions.
    """

    def __init__(self, model: Model, judge: Judge, settings: Settings, given: Tensor | None = None) -> None:
        self.model, self.judge, self.settings, self.given = model, judge, settings, given
        self.network = model.network
        self.reference = copy.deepcopy(model.network).eval().requires_grad_(False)
        self.optimizer = optim.AdamW(self.network.parameters(), settings.lr, weight_decay=0.0)
        nearest = model.grid_distance_min if settings.grid_distance_min is None else settings.grid_distance_min
        self.drawing = Drawing(settings.grid_spacing, nearest, settings.temperature_term)
        self.most = settings.max_n_atoms or -(-5 * model.largest // 4)
        self.epoch = self.evaluations = 0
        self.baseline: float | None = None
        self.floor: float | None = settings.floor

    def run_epoch(self) -> tuple[dict[str, float], list[Atoms]]:
        """Grow a batch, judge it, and make the steps of one epoch.

        Returns:
            What the model was before the steps: means of the batch; and its finished molecules.
        """
        settings = self.settings
        rng = np.random.default_rng((settings.seed, self.epoch))
        grower = Grower(self.network, self.drawing, rng)
        grown = grow(grower, settings.batch_size, self.most, self.given)
        reward, value = self._judged(grown)
        with torch.no_grad():
            chunks = np.array_split(np.arange(len(grown)), -(-len(grown) // settings.minibatch))
            old = [log_probs(self.network, grower, grown, rows, self.given) for rows in chunks]
            first = [log_probs(self.reference, grower, grown, rows, self.given) for rows in chunks]
        ratio = np.zeros(len(grown))
        for rows, mine, theirs in zip(chunks, old, first, strict=True):
            owner = grown.molecule[np.isin(grown.molecule, rows)]
            np.add.at(ratio, owner, (mine - theirs).double().cpu().numpy())
        worth = value - settings.beta * ratio
        self.baseline = float(worth.mean()) if self.baseline is None else self.baseline
        advantage = worth - self.baseline
        self.baseline = DECAY * self.baseline + (1 - DECAY) * float(worth.mean())
        spread = float(advantage.std())
        advantage = advantage / max(spread, 1e-6) if settings.normalize_advantage else advantage
        self._climb(grower, grown, chunks, old, advantage, rng)
        self.epoch += 1
        known = reward[np.isfinite(reward)]
        row = {
            "reward": float(known.mean()) if len(known) else np.nan,
            "reward_best": float(known.max()) if len(known) else np.nan,
            "rewarded": len(known) / len(grown),
            "finished": float(grown.finished.mean()),
            "kl": float(ratio.mean()),
            "n_atoms": float(grown.count.mean()),
            "evaluations": float(self.evaluations),
        }
        return row, [grown.structures[index] for index in np.flatnonzero(grown.finished)]

    def _judged(self, grown: Grown) -> tuple[FloatArray, FloatArray]:
        """(B,) rewards, NaN where there is none, and (B,) what is made large."""
        reward: FloatArray = np.full(len(grown), np.nan)
        rows = np.flatnonzero(grown.finished)
        if len(rows):
            reward[rows] = self.judge([grown.structures[index] for index in rows])
            self.evaluations += len(rows)
        value = -reward if self.settings.minimise else reward
        known = value[np.isfinite(value)]
        if self.floor is None and len(known):
            low, high = np.quantile(known, [0.25, 0.75])
            self.floor = float(low - 2 * max(high - low, 1e-3))
        floor = 0.0 if self.floor is None else self.floor
        return reward, np.maximum(np.where(np.isfinite(value), value, floor), floor)

    def _climb(
        self,
        grower: Grower,
        grown: Grown,
        chunks: Sequence[IntArray],
        old: Sequence[Tensor],
        advantage: FloatArray,
        rng: np.random.Generator,
    ) -> None:
        settings = self.settings
        for _ in range(settings.steps):
            for index in rng.permutation(len(chunks)):
                rows = chunks[index]
                change = log_probs(self.network, grower, grown, rows, self.given) - old[index]
                owner = grown.molecule[np.isin(grown.molecule, rows)]
                weight = torch.from_numpy(advantage[owner]).to(change)
                loss = policy_loss(change[:, None], weight, settings.eps_clip) * len(change) / len(rows)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_grad)
                self.optimizer.step()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that tuning goes on from: tensors, and numbers as JSON."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"reference.{name}": value for name, value in self.reference.state_dict().items()}
        numbers = {name: getattr(self, name) for name in ("epoch", "evaluations", "baseline", "floor")}
        return tensors | optimizer_tensors(self.optimizer), numbers

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        for name, network in (("network.", self.network), ("reference.", self.reference)):
            mine = {key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)}
            network.load_state_dict(mine)
        load_optimizer(self.optimizer, tensors)
        for name in ("epoch", "evaluations", "baseline", "floor"):
            setattr(self, name, meta[name])
