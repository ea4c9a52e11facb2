"""The generator as a policy of CrystalSlots-v0: a structure is sampled whole and played slot by slot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from megen_gym.actions import FractionalCodec, Site
from megen_gym.agents.cryingan.networks import GAN, load_gan
from megen_gym.agents.cryingan.system import CELL_TOLERANCE
from megen_gym.errors import InputError
from megen_gym.structure import BoolArray, FloatArray, IntArray
from megen_gym.tasks.base import Observation, Task
from megen_gym.tasks.slots import FractionalSlots


def slot_fractions(gan: GAN, task: Task[Any], latents: torch.Tensor) -> FloatArray:
    """(B, N, 3) fractions in the order of the task's slots from latents (B, latent_size).

    Atoms that the task keeps stand where its template has them: the generated atom there goes to the nearest one of the
    kept element, and that to where the generator had the kept atom.

    Raises:
        InputError: if the task is not one of this cell and composition.
    """
    order, kept = slot_order(gan, task)
    made = gan.generate(latents)
    fractions: FloatArray = gan.system.lattice.fractional(made.positions)[:, order]
    if not kept:
        return fractions
    assert isinstance(task, FractionalSlots)
    template = task.template
    places = template.lattice.fractional(template.positions)
    rows, slots = np.arange(len(fractions)), np.arange(len(template))
    for slot in range(kept):
        apart = gan.system.lattice.minimum_image(gan.system.lattice.cartesian(fractions - places[slot]))
        square = np.where(slots >= slot, (apart**2).sum(-1), np.inf)
        there = square.argmin(1)
        alike = np.where(template.species == template.species[slot], square, np.inf).argmin(1)
        fractions[rows, there] = fractions[rows, alike]
        fractions[rows, alike] = fractions[rows, slot]
        fractions[:, slot] = places[slot]
    return fractions


def slot_order(gan: GAN, task: Task[Any]) -> tuple[IntArray, int]:
    """(N,) atom of the model, in its file's order, for each slot of the task, and how many slots are kept.

    Raises:
        InputError: if the task is not one of this cell and composition, or its actions are not places in the cell.
    """
    from ase.data import atomic_numbers

    if not isinstance(task, FractionalSlots):
        raise InputError(
            "the generator plays environments whose actions are places in a cell; "
            "give CrystalSlots-v0 with free='positions' (or 'both') and action='fractional'"
        )
    template, system = task.template, gan.system
    numbers = np.array([atomic_numbers[name] for name in template.symbols])[template.species]
    same_atoms = np.array_equal(np.sort(numbers), np.sort(system.numbers))
    if (
        not same_atoms
        or np.abs(template.lattice.cell - system.lattice.cell).max() > CELL_TOLERANCE
        or template.lattice.pbc != system.pbc
    ):
        raise InputError(
            "the environment's template has another cell, periodicity or composition than the model, which makes "
            f"{system.formula}; give the template that the model was trained on, or train a model for this one"
        )
    order = np.empty(len(numbers), dtype=np.int64)
    order[system.grouping(numbers)] = system.order
    return order, template.n_kept


@dataclass
class Plan:
    """What the policy keeps between steps: the structure (B, N, 3) that each environment is to get, as fractions."""

    fractions: FloatArray


class CryinGANPolicy:
    """Plays structures of a trained generator; a policy with Stable-Baselines3's ``predict``.

    CrystalSlots-v0 with free positions, in the cell and composition that the generator was trained on: a structure is
    drawn at the start of each episode and its atoms are placed one by one. After CryinGAN (Yong, Su and Ertekin,
    Digital Discovery 3, 1889 (2024), doi 10.1039/d4dd00100a).

    Args:
        run: Run id, run folder, "newest", or a :class:`.networks.GAN`.
        env: The environment that is to be played (single or vector), or its task.
        dir: Folder of the run folders.
        seed: Of the latents.

    Raises:
        InputError: if the environment has another cell or composition than the model.
    """

    def __init__(self, run: str | Path | GAN, env: Any, dir: str | Path = "runs", seed: int = 0) -> None:
        self.gan = run if isinstance(run, GAN) else load_gan(run, dir)[0]
        self.task: Task[Any] = getattr(getattr(env, "unwrapped", env), "task", env)
        slot_order(self.gan, self.task)
        assert isinstance(self.task, FractionalSlots)
        self.codec: FractionalCodec = self.task.codec
        self.species: IntArray = self.task.template.species
        self.rng = torch.Generator().manual_seed(seed)

    def predict(
        self,
        observation: Observation,
        state: Plan | None = None,
        episode_start: BoolArray | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.float32], Plan]:
        """The next atom of each environment's structure, at its slot.

        Args:
            observation: Of one environment, or of B.
            state: The plan of the step before.
            episode_start: (B,) where a new structure is to be sampled; all of them where there is no plan yet.
            deterministic: Play the structure of the latent zero instead of a random one.

        Returns:
            Actions (B, A), or (A,) for a single observation, and the plan.
        """
        single = observation["species"].ndim == 1
        species = np.atleast_2d(observation["species"])
        if state is None or len(state.fractions) != len(species):
            state = Plan(np.zeros((*species.shape, 3)))
            episode_start = np.ones(len(species), dtype=bool)
        rows = np.flatnonzero(np.zeros(len(species), bool) if episode_start is None else np.atleast_1d(episode_start))
        if len(rows):
            z = self.gan.latents(len(rows), self.rng)
            fractions = state.fractions.copy()
            fractions[rows] = slot_fractions(self.gan, self.task, torch.zeros_like(z) if deterministic else z)
            state = Plan(fractions)
        slot = np.minimum((species > 0).sum(1), species.shape[1] - 1)
        place = state.fractions[np.arange(len(slot)), slot]
        action = self.codec.encode(Site(self.species[slot], place - np.floor(place))).astype(np.float32)
        return (action[0] if single else action), state
