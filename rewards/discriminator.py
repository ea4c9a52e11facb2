"""A trained CryinGAN's critics as the judge of finished structures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from megen_gym.errors import InputError
from megen_gym.rewards.base import Known, Outcome, Reward
from megen_gym.structure import FloatArray, IntArray, StructureBatch

if TYPE_CHECKING:
    from megen_gym.agents.cryingan.networks import GAN


class DiscriminatorReward(Reward):
    """How real a finished structure looks to the critics that a CryinGAN was trained with.

    The score, C + weight_dist D with the weight of the training, has no zero and no unit of its own and drifts while a
    GAN is trained; here it is centred on the mean of the training structures and divided by their standard deviation:
    0 is an average real structure, -1 scores one deviation lower. A structure that lacks atoms earns 0; the placement
    that completes it earns the score. The critics are those of CryinGAN (Yong, Su and Ertekin, Digital Discovery 3,
    1889 (2024), doi 10.1039/d4dd00100a).

    Args:
        run: Run id, run folder, or "newest".
        dir: Folder of the run folders.
        worst: Floor of the reward.
        best: Its ceiling, so that there is little to be won by what no structure of the data has.
        min_distance: Å; a finished structure with two atoms that are closer earns `worst`, whatever a critic makes of
            it. By default 80 % of the shortest distance in the data; 0 lets the critics decide alone.

    Raises:
        InputError: if there is no such model, or a structure is not of its cell and composition.
    """

    def __init__(
        self,
        run: str = "newest",
        dir: str | Path = "runs",
        worst: float = -10.0,
        best: float = 3.0,
        min_distance: float | None = None,
    ) -> None:
        from megen_gym.agents.cryingan.networks import load_gan

        self.gan: GAN = load_gan(run, dir)[0]
        closest = self.gan.valid_distance if min_distance is None else min_distance
        if not (-np.inf < worst < 0 < best < np.inf and 0 <= closest < np.inf):
            raise InputError(
                f"worst is {worst}, best {best} and min_distance {closest} Å; give numbers below 0 and above 0, and a "
                "distance of 0 or more"
            )
        self.worst, self.best, self.min_distance = float(worst), float(best), float(closest)
        self.invalid = self.worst
        for module in self.gan.modules.values():
            module.eval().requires_grad_(False)

    def score(self, batch: StructureBatch) -> dict[str, FloatArray]:
        """(B,) of whole structures: ``score`` centred and scaled, ``coordinate`` and ``distance`` as they are."""
        import torch

        system, weight = self.gan.system, self.gan.settings.weight_dist
        numbers = batch.numbers[:, : len(system.numbers)]
        self._check(batch, numbers)
        order = system.grouping(numbers)
        positions = np.take_along_axis(batch.positions[:, : len(system.numbers)], order[..., None], 1)
        fractions = torch.as_tensor(system.lattice.fractional(system.lattice.wrap(positions)), dtype=torch.float32)
        device = next(self.gan.coordinate.parameters()).device
        with torch.no_grad():
            parts = [self.gan.scores(part.to(device)) for part in torch.split(fractions, 256)]
        coordinate, distance = (torch.cat(part).double().cpu().numpy() for part in zip(*parts, strict=True))
        mean, spread = self.gan.real_score
        score = ((coordinate + weight * distance) - mean) / spread
        if self.min_distance > 0:
            apart = system.lattice.distances(positions) + np.eye(positions.shape[1]) * 1e9
            score = np.where(apart.min((1, 2)) < self.min_distance, self.worst, score)
        return {"score": np.clip(score, self.worst, self.best), "coordinate": coordinate, "distance": distance}

    def __call__(self, before: StructureBatch, after: StructureBatch, known: Known | None = None) -> Outcome:
        whole = np.flatnonzero(after.n_atoms == len(self.gan.system.numbers))
        value = np.zeros(len(after))
        terms = {name: np.full(len(after), np.nan) for name in ("score", "coordinate", "distance")}
        if len(whole):
            found = self.score(after[whole])
            for name, part in found.items():
                terms[name][whole] = part
            value[whole] = found["score"]
        return Outcome(value, terms)

    def _check(self, batch: StructureBatch, numbers: IntArray) -> None:
        from megen_gym.agents.cryingan.system import CELL_TOLERANCE

        system = self.gan.system
        if batch.cell is None or np.abs(batch.cell - system.cell).max() > CELL_TOLERANCE or batch.pbc != system.pbc:
            raise InputError(
                f"the critic was trained for {system.formula} in the cell {np.round(system.cell, 3).tolist()} Å, the "
                "structures have another one; use a model of this template"
            )
        if (np.sort(numbers, axis=1) != np.sort(system.numbers)).any():
            raise InputError(
                f"the critic was trained for {system.formula} and cannot judge another composition; "
                "use a model of this template"
            )
