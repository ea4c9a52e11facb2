"""The model as a policy of CrystalWyckoff-v0: it sees the list so far and draws the next site, or the lattice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers
from numpy.typing import NDArray
from torch import Tensor

from megen_gym.actions import SiteChoice
from megen_gym.agents.crystal_gpt.encoding import ELEMENTS, Sites
from megen_gym.agents.crystal_gpt.model import Model, load_model
from megen_gym.agents.crystal_gpt.network import LETTERS
from megen_gym.agents.crystal_gpt.periodic import log_density
from megen_gym.agents.crystal_gpt.sampling import Drawing, Sampler
from megen_gym.errors import InputError
from megen_gym.lattices import FREE, family_of
from megen_gym.structure import BoolArray, FloatArray, IntArray
from megen_gym.tasks.base import Observation
from megen_gym.tasks.wyckoff import WyckoffTask

BEST = Drawing(temperature=1e-20)
"""What is likeliest."""


@dataclass(eq=False)
class Shown:
    """The masks of an observation as choices: which letters, which elements on them, and whether the list may end."""

    sites: Tensor
    may_stop: Tensor
    step: int = 1

    def letters(self, allowed: Tensor) -> Tensor:
        """(B, 28); what the task allows decides."""
        return torch.cat([self.may_stop[:, None], self.sites.any(2)], 1)

    def elements(self, letter: Tensor) -> Tensor:
        """(B, 119); anything where the list ends."""
        rows = torch.arange(len(letter))
        return self.sites[rows, (letter - 1).clamp(min=0)] | (letter == 0)[:, None]

    def coordinates(self) -> None:
        """None are given."""
        return


class CrystalPolicy:
    """Writes crystals as the model does, inside the masks of the environment; a policy with SB3's ``predict``.

    CrystalWyckoff-v0, with the lattice first or last as the model has it. After crystal_gpt and CrystalFormer (Cao et
    al., arXiv 2403.15734).

    Args:
        run: Run id, run folder, "newest", or a :class:`.model.Model`.
        env: The environment that is to be played (single or vector), or its task.
        dir: Folder of the run folders.
        drawing: Temperatures.
        seed: Of the draws.

    Raises:
        InputError: for an environment that the model cannot play.
    """

    def __init__(
        self, run: str | Path | Model, env: Any, dir: str | Path = "runs", drawing: Drawing | None = None, seed: int = 0
    ) -> None:
        self.model = run if isinstance(run, Model) else load_model(run, dir)[0]
        task = getattr(getattr(env, "unwrapped", env), "task", env)
        if not isinstance(task, WyckoffTask):
            raise InputError("crystal_gpt plays CrystalWyckoff-v0 only; give such an environment")
        shape = self.model.network.shape
        if shape.order != ("first" if task.first else "last"):
            raise InputError(
                f"the model writes the lattice {shape.order}, the environment does not; make it with "
                f"lattice={shape.order!r}"
            )
        if task.n_max > shape.n_max:
            raise InputError(
                f"the environment has n_max={task.n_max}, the model {shape.n_max}; make the environment with "
                f"n_max={shape.n_max}"
            )
        self.task = task
        self.numbers = np.array([0] + [atomic_numbers[name] for name in task.symbols[1:]])
        self.sampler = Sampler(self.model.network.eval(), drawing or Drawing(), np.random.default_rng(seed))
        self.best = Sampler(self.model.network, BEST, np.random.default_rng(seed))

    @torch.no_grad()
    def predict(
        self,
        observation: Observation,
        state: Any = None,
        episode_start: BoolArray | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.float32], Any]:
        """The next site or lattice.

        Args:
            observation: Of one environment, or of B.
            state: Not needed: all is in the observation.
            episode_start: Not needed.
            deterministic: Take the likeliest letter and element, and the places where the density peaks.

        Returns:
            Actions (B, A), or (A,) for a single observation, and `state`.
        """
        single = observation["species"].ndim == 1
        batch = {name: np.atleast_2d(value) for name, value in observation.items()}
        sampler = self.best if deterministic else self.sampler
        sites, here, end = self._seen(batch)
        n = len(sites)
        choice = SiteChoice(
            np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64), np.zeros((n, 3)), np.zeros((n, 6))
        )
        setting = batch["lattice_next"][:, 0] > 0
        rows = np.flatnonzero(setting)
        if len(rows):
            drawn = sampler.lattice([end[rows]], sites.group[rows], self._atoms(sites)[rows]).numpy(force=True)
            parameters = np.concatenate([drawn[:, :3], np.rad2deg(drawn[:, 3:])], 1)
            shown = self.task.read({name: value[rows] for name, value in batch.items()})
            choice.lattice[rows] = self.task.lattice_numbers(shown, parameters, clip=True)
        rows = np.flatnonzero(~setting & (batch["site_mask"].any(1) | (batch["element_mask"][:, 0] > 0)))
        if len(rows):
            before, masks = self._before(sites)[rows], self._shown(batch, rows)
            letter, element, angles = sampler.site([here[rows]], sites.group[rows], before, masks)
            index = np.searchsorted(self.numbers, element.numpy(force=True), sorter=self.numbers.argsort())
            choice.element[rows] = self.numbers.argsort()[index]
            choice.letter[rows] = np.maximum(letter.numpy(force=True) - 1, 0)
            choice.coordinates[rows] = angles.double().numpy(force=True) / (2 * np.pi)
        action = self.task.codec.encode(choice).astype(np.float32)
        return (action[0] if single else action), state

    def log_prob(self, observation: Observation, action: FloatArray) -> Tensor:
        """(B,) logarithm of the density of actions (B, A): of what they choose, times that of the free numbers.

        Coordinates and lattice numbers are measured as the action holds them, from -1 to 1.
        """
        batch = {name: np.atleast_2d(value) for name, value in observation.items()}
        sites, here, end = self._seen(batch)
        shown_sites = batch["site_mask"].reshape(len(sites), -1, len(self.numbers)) > 0
        choice = self.task.codec.decode(
            np.atleast_2d(action).astype(np.float64), shown_sites, batch["element_mask"][:, 0]
        )
        network, total = self.model.network, torch.zeros(len(sites))
        setting = batch["lattice_next"][:, 0] > 0
        rows = np.flatnonzero(setting)
        if len(rows):
            total = total.index_add(0, torch.from_numpy(rows), self._lattice_density(batch, rows, choice, sites, end))
        rows = np.flatnonzero(~setting & (shown_sites.any((1, 2)) | (batch["element_mask"][:, 0] > 0)))
        if len(rows):
            group, context, shown = sites.group[rows], here[rows], self._shown(batch, rows)
            element = torch.from_numpy(self.numbers[choice.element[rows]])
            letter = torch.from_numpy(choice.letter[rows] + 1) * (element > 0)
            allowed = shown.letters(network.allowed_letters(group, self._before(sites)[rows]))
            logp = torch.log_softmax(network.letter_logits(context, allowed), 1).gather(1, letter[:, None])[:, 0]
            chosen = network.with_letter(context, group, letter)
            logits = network.element_logits(chosen).masked_fill(~shown.elements(letter), -torch.inf)
            each = torch.log_softmax(logits, 1).gather(1, element[:, None])[:, 0]
            logp = logp + torch.where(letter > 0, each, 0.0)
            free = network.positions.free[network.positions.row(group, letter)] & (letter > 0)[:, None]
            row, axis = free.nonzero(as_tuple=True)
            angles = torch.from_numpy(2 * np.pi * choice.coordinates[rows]).float() * free
            mixture = network.coordinate_mixture(chosen[row], element[row], axis, angles[row])
            value = angles[row].gather(1, axis[:, None])[:, 0]
            density = log_density(network.shape.coordinate, value, mixture) + float(np.log(np.pi))
            total = total.index_add(0, torch.from_numpy(rows), logp.index_add(0, row, density))
        return total

    def _lattice_density(
        self, batch: Observation, rows: IntArray, choice: SiteChoice, sites: Sites, end: Tensor
    ) -> Tensor:
        task, group = self.task, sites.group[rows]
        shown = task.read({name: value[rows] for name, value in batch.items()})
        made = task.propose(
            shown, np.concatenate([np.zeros((len(rows), task.codec.size - 6)), choice.lattice[rows]], 1)
        )
        lattice = np.concatenate([made.lattice[:, :3], np.deg2rad(made.lattice[:, 3:])], 1)
        atoms = self._atoms(sites)[rows]
        density = self.model.network.cell.log_prob(end[rows], group, torch.from_numpy(lattice), atoms)
        free = FREE[family_of(group.numpy())]
        # from edges per cube root of an atom to their logarithms, and on to volume, ratios and angles in -1 ... 1
        edges = np.log(lattice[:, :3]) - np.log(atoms.numpy())[:, None] / 3
        smallest, largest = task.volume_span(shown)
        slope = np.log(np.log(largest / smallest) / 6) + np.log(np.log(task.bounds.aspect)) * free[:, 1:3].sum(1)
        half = np.deg2rad(task.bounds.angles[1] - task.bounds.angles[0]) / 2
        slope = slope + (edges * free[:, :3]).sum(1) + np.log(half) * free[:, 3:].sum(1)
        return (density + torch.from_numpy(slope)).float()

    def _seen(self, batch: Observation) -> tuple[Sites, Tensor, Tensor]:
        """The crystals so far, and what decisions about the next site (B, W) and the lattice (B, W) depend on."""
        letters = batch["site_letters"].astype(np.int64)
        size, width = letters.shape
        lattice = batch["lattice"].astype(np.float64)
        lattice = np.where(lattice.any(1, keepdims=True), lattice, [1.0, 1.0, 1.0, 90.0, 90.0, 90.0])
        angles = 2 * np.pi * batch["site_coordinates"].reshape(size, width, 3)
        sites = Sites(
            torch.from_numpy(batch["spacegroup"][:, 0].astype(np.int64)),
            torch.from_numpy(letters),
            torch.from_numpy(self.numbers[batch["site_elements"].astype(np.int64)] * (letters > 0)),
            torch.from_numpy(angles.astype(np.float32)),
            torch.from_numpy(np.concatenate([lattice[:, :3], np.deg2rad(lattice[:, 3:])], 1)),
        )
        context, end = self.model.network.contexts(sites)
        count = (sites.letters > 0).sum(1)
        return sites, context[torch.arange(size), count], end

    def _atoms(self, sites: Sites) -> Tensor:
        positions = self.model.network.positions
        count = positions.multiplicity[positions.row(sites.group[:, None], sites.letters)] * (sites.letters > 0)
        return count.sum(1).clamp(min=1)

    def _before(self, sites: Sites) -> Tensor:
        return sites.letters.max(1).values

    def _shown(self, batch: Observation, rows: IntArray) -> Shown:
        sites = batch["site_mask"][rows].reshape(len(rows), LETTERS - 1, len(self.numbers)) > 0
        wide = np.zeros((len(rows), LETTERS - 1, ELEMENTS), dtype=bool)
        wide[:, :, self.numbers[1:]] = sites[:, :, 1:]
        return Shown(torch.from_numpy(wide), torch.from_numpy(batch["element_mask"][rows, 0] > 0))
