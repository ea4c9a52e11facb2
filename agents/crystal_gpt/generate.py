"""Crystals from a trained model: draws, the refusal of those whose atoms overlap, and their likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from megen_gym.agents.crystal_gpt.conditions import Given
from megen_gym.agents.crystal_gpt.encoding import ELEMENTS
from megen_gym.agents.crystal_gpt.model import Model
from megen_gym.agents.crystal_gpt.sampling import Drawing, Sampler
from megen_gym.agents.crystal_gpt.wanted import Wanted
from megen_gym.crystals import CrystalBatch
from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray, IntArray

BATCH = 500
"""Crystals drawn at one time."""

FEWEST = 0.002
"""Share of acceptable draws below which drawing is given up."""


@dataclass(frozen=True, eq=False)
class Samples:
    """Crystals and how they came about.

    Attributes:
        crystals: B crystals.
        logp: (B, 4) logarithm of the model's likelihood: letters, elements, coordinates, lattice.
        drawn: Crystals that were drawn in all.
        refused: Those among them whose atoms overlap, or that could not be completed as asked.
    """

    crystals: CrystalBatch
    logp: FloatArray
    drawn: int
    refused: int = 0

    def __len__(self) -> int:
        return len(self.crystals)

    def __getitem__(self, rows: slice | IntArray) -> Samples:
        return Samples(self.crystals[rows], self.logp[rows], self.drawn, self.refused)


def sample(
    model: Model,
    n: int,
    groups: Sequence[int] = (),
    *,
    wanted: Wanted | None = None,
    properties: Mapping[str, float] | None = None,
    drawing: Drawing | None = None,
    min_distance: float = 0.5,
    lattice: FloatArray | None = None,
    seed: int | np.random.Generator = 0,
    progress: bool = False,
) -> Samples:
    """Draw crystals of elements that the model has seen.

    Args:
        model: Trained.
        n: Number of them.
        groups: Space groups, in turn; by default drawn as often as they are among the training crystals, from those
            that can have what is wanted.
        wanted: Hard conditions; soft ones on composition, elements and number of atoms follow from them.
        properties: Soft conditions by name, in the data's units.
        drawing: Temperatures and the like.
        min_distance: Å, crystals with atoms nearer than this are drawn again; 0 keeps all.
        lattice: (6,) Å and degrees, where it is known.
        seed: The same one gives the same crystals.
        progress: Show a progress bar.

    Raises:
        InputError: for what the groups or the model cannot give, or where almost all draws are refused.
    """
    from tqdm import tqdm

    wanted, rng = wanted or Wanted(), np.random.default_rng(seed)
    sampler = Sampler(model.network, drawing or Drawing(), rng)
    numbers: IntArray = np.array(groups, dtype=np.int64)
    shares = None
    if not len(numbers):
        numbers, shares = histogram(model, wanted)
    else:
        for number in np.unique(numbers).tolist():
            wanted.start(torch.tensor([number]), model.network.shape.n_max)
    soft = soft_conditions(model, wanted, properties or {})
    wanted = known_only(model, wanted)
    kept: list[CrystalBatch] = []
    count = drawn = refused = 0
    with tqdm(total=n, unit="crystal", disable=not progress) as bar:
        while count < n:
            size = min(BATCH, max(n - count, 16) if drawn else n)
            chosen = numbers[(drawn + np.arange(size)) % len(numbers)]
            if shares is not None:
                chosen = rng.choice(numbers, size, p=shares)
            given = None if soft is None else soft[torch.zeros(size, dtype=torch.long)]
            fixed = None if lattice is None else torch.tensor(_radians(lattice)).expand(size, -1)
            crystals = sampler.sample(torch.from_numpy(chosen), given, wanted, fixed).crystals()
            drawn += size
            good = crystals.n_sites > 0
            if min_distance > 0:
                good &= crystals.apart(min_distance)
            refused += int((~good).sum())
            kept.append(crystals[good][: n - count])
            count += len(kept[-1])
            bar.update(len(kept[-1]))
            if drawn > 2000 and count < FEWEST * drawn:
                raise InputError(
                    f"only {count} of {drawn} crystals could be completed as asked with all atoms {min_distance} Å "
                    "apart; lower min_distance or the temperature, or ask for something nearer to the training data"
                )
    crystals = CrystalBatch.join(kept)
    parts = model.log_prob(crystals, None if soft is None else soft[torch.zeros(len(crystals), dtype=torch.long)])
    return Samples(crystals, torch.stack(list(parts), 1).double().numpy(), drawn, refused)


def known_only(model: Model, wanted: Wanted) -> Wanted:
    """The same conditions with the elements of the training data where none were asked for."""
    if wanted.elements is not None:
        return wanted
    return replace(wanted, elements=np.isin(np.arange(ELEMENTS), model.elements))


def histogram(model: Model, wanted: Wanted) -> tuple[IntArray, FloatArray]:
    """Space groups of the training data that can have what is wanted, and their shares.

    Raises:
        InputError: where none can.
    """
    numbers = [number for number in model.groups if wanted.can(number, model.network.shape.n_max)]
    if not numbers:
        number = max(model.groups, key=lambda one: model.groups[one])
        try:
            wanted.start(torch.tensor([number]), model.network.shape.n_max)
        except InputError as error:
            raise InputError(
                f"none of the {len(model.groups)} space groups of the training data can give what is asked; the most "
                f"frequent one: {error}"
            ) from None
    counts = np.array([model.groups[number] for number in numbers], dtype=np.float64)
    return np.array(numbers), counts / counts.sum()


def soft_conditions(model: Model, wanted: Wanted, properties: Mapping[str, float]) -> Given | None:
    """What one crystal is conditioned on; None for a model that was trained without conditions.

    Raises:
        InputError: for a property that the model was not trained on.
    """
    known = model.known
    for name, value in properties.items():
        if name not in known.properties:
            there = f"it knows {', '.join(known.properties)}" if known.properties else "it was trained on none"
            raise InputError(
                f"the model was not trained on the property {name!r}; {there}; "
                f"{nearest(name, known.properties) if known.properties else 'train with --conditions ' + name}"
            )
        if not np.isfinite(value):
            raise InputError(f"property {name} is {value}; give a finite number")
    if not known.names:
        return None
    given = Given.none(1, len(known.properties))
    for name, value in properties.items():
        given.properties[0, known.properties.index(name)] = float(value)
    goals = wanted.goals
    composition, elements, atoms = given.composition.clone(), given.elements.clone(), given.n_atoms.clone()
    if (goals is not None and goals.counts.shape[1] > 1) or (goals is not None and (goals.axis >= 0).sum() == 1):
        share = goals.counts[0] / goals.counts[0].sum()
        used = np.flatnonzero(goals.axis >= 0)
        composition[0, used] = torch.from_numpy(share[goals.axis[used]]).float()
        elements[0, used] = 1.0
    elif wanted.elements is not None and wanted.elements.sum() < len(model.elements):
        elements[0] = torch.from_numpy(wanted.elements[:ELEMENTS].astype(np.float32))
    if goals is not None and len(goals.counts) == 1:
        atoms[0] = float(goals.counts[0].sum())
    device = model.device
    return Given(given.properties.to(device), composition.to(device), elements.to(device), atoms.to(device))


def _radians(lattice: FloatArray) -> FloatArray:
    return np.concatenate([lattice[:3], np.deg2rad(lattice[3:])])
