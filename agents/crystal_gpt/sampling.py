"""Drawing crystals: one site after another with a cache of keys and values, until each list ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from megen_gym.agents.crystal_gpt.conditions import Given
from megen_gym.agents.crystal_gpt.encoding import Sites
from megen_gym.agents.crystal_gpt.network import CrystalGPT
from megen_gym.agents.crystal_gpt.periodic import Mixture, choose, draw, log_density
from megen_gym.agents.crystal_gpt.trunk import Cache
from megen_gym.agents.crystal_gpt.wanted import Wanted
from megen_gym.structure import FloatArray


@dataclass(frozen=True)
class Drawing:
    """How crystals are drawn.

    Attributes:
        temperature: Of all choices: logits and concentrations are divided by it, variances multiplied.
        first_temperature: Of the first site's letter and element instead (T1); None for the same.
        top_p: Letters and elements are drawn among the likeliest that together have this probability.
        guidance: g, how much conditions are overdone: logits are (1 + g) times those with the conditions less g times
            those without; places and lattices are the likeliest of a few in the same sense. 0 for no guidance.
    """

    temperature: float = 1.0
    first_temperature: float | None = None
    top_p: float = 1.0
    guidance: float = 0.0


CANDIDATES = 8
"""Places or lattices among which guidance chooses."""


class Choices(Protocol):
    """What may be chosen for the next site."""

    @property
    def step(self) -> int:
        """Sites so far."""

    def letters(self, allowed: Tensor) -> Tensor:
        """(B, 28) those of the `allowed` letters that may come next, X being 0."""

    def elements(self, letter: Tensor) -> Tensor | None:
        """(B, 119) elements that may stand on the letters (B,); None for all."""

    def coordinates(self) -> FloatArray | None:
        """(3,) coordinates that are given, NaN for those to be drawn; None for all to be drawn."""


class _Branch:
    """A batch of unfinished lists as one model sees them: with conditions, or without."""

    def __init__(self, model: CrystalGPT, group: Tensor, given: Given | None) -> None:
        self.model, self.cache = model, Cache()
        self.context = model.trunk(model.begin(group, given)[:, None], self.cache)[:, -1]

    def add(self, token: Tensor) -> None:
        """See one more token (B, W)."""
        self.context = self.model.trunk(token[:, None], self.cache)[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the lists."""
        self.cache, self.context = self.cache.rows(rows), self.context[rows]


class Sampler:
    """Draws from a model.

    Args:
        model: In evaluation mode.
        drawing: Temperatures and the like.
        rng: Source of all randomness.
    """

    def __init__(self, model: CrystalGPT, drawing: Drawing, rng: np.random.Generator) -> None:
        self.model, self.drawing, self.rng = model, drawing, rng
        self.device = model.group.weight.device

    @torch.no_grad()
    def sample(
        self,
        group: Tensor,
        given: Given | None = None,
        wanted: Wanted | None = None,
        lattice: Tensor | None = None,
    ) -> Sites:
        """One crystal for each space group number (B,); one without sites where a list could not be completed.

        Args:
            group: (B,) space group numbers.
            given: Soft conditions, which the model was trained with.
            wanted: Hard conditions.
            lattice: (B, 6) Å and radians, where it is known.

        Raises:
            InputError: where what is wanted cannot be had.
        """
        model, n_max = self.model, self.model.shape.n_max
        group = group.to(self.device)
        size = len(group)
        letters = torch.zeros(size, n_max, dtype=torch.long, device=self.device)
        angles = torch.zeros(size, n_max, 3, device=self.device)
        whole = torch.ones(size, 6, dtype=torch.float64, device=self.device) if lattice is None else lattice
        out = Sites(group, letters, torch.zeros_like(letters), angles, whole.to(self.device).clone())
        progress = (wanted or Wanted()).start(group, n_max)
        branches = [_Branch(model, group, given)]
        if self.drawing.guidance and given is not None:
            branches.append(_Branch(model, group, None))
        rows, atoms = torch.arange(size, device=self.device), torch.zeros_like(group)
        letter = torch.zeros_like(group)
        if model.shape.order == "first":
            if lattice is None:
                out.lattice[:] = self.lattice([branch.context for branch in branches], group, atoms + 1)
            for branch in branches:
                branch.add(model.lattice_token(out.lattice))
        for step in range(n_max + 1):
            before = atoms[rows]
            if step < n_max:
                contexts = [branch.context for branch in branches]
                letter, element, angle = self.site(contexts, group[rows], letter, progress)
                stuck = torch.from_numpy(progress.stuck).to(self.device)
                letter = letter * ~stuck
                out.letters[rows, step], out.elements[rows, step], out.angles[rows, step] = letter, element, angle
                position = model.positions.row(group[rows], letter)
                count = model.positions.multiplicity[position] * (letter > 0)
                progress.add(letter, element, count, ~model.positions.free[position].any(-1))
                atoms[rows] += count
                out.letters[rows[stuck]] = 0
            else:
                letter = torch.zeros_like(letter)
            going = letter > 0
            if not going.all():
                ended = rows[~going]
                if model.shape.order == "last" and lattice is None:
                    contexts = [branch.context[~going] for branch in branches]
                    out.lattice[ended] = self.lattice(contexts, group[ended], atoms[ended])
                if not going.any():
                    break
                rows, before, letter = rows[going], before[going], letter[going]
                progress.keep(going)
                for branch in branches:
                    branch.keep(going)
            here = out[rows].columns(step, step + 1)
            token = model.site_tokens(here, step, before)[:, 0]
            for branch in branches:
                branch.add(token)
        return out

    def site(
        self, contexts: list[Tensor], group: Tensor, before: Tensor, choices: Choices
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Letters and elements (B,), 0 for the end, and coordinates (B, 3) in radians of the next sites.

        Args:
            contexts: (B, W) what the model has seen with the conditions and, for guidance, without.
            group: (B,) space group numbers.
            before: (B,) letters of the sites before.
            choices: What may be chosen.
        """
        model, drawing = self.model, self.drawing
        early = choices.step == 0 and drawing.first_temperature is not None
        temperature = drawing.first_temperature if early and drawing.first_temperature else drawing.temperature
        allowed = choices.letters(model.allowed_letters(group, before))
        logits = self._guided([model.letter_logits(context, allowed) for context in contexts])
        letter = choose(logits / temperature, self.rng, drawing.top_p)
        chosen = [model.with_letter(context, group, letter) for context in contexts]
        logits = self._guided([model.element_logits(context) for context in chosen])
        usable = choices.elements(letter)
        if usable is not None:
            logits = logits.masked_fill(~usable, -torch.inf)
        element = choose(logits / temperature, self.rng, drawing.top_p) * (letter > 0)
        known = choices.coordinates()
        free = model.positions.free[model.positions.row(group, letter)] & (letter > 0)[:, None]
        angles = torch.zeros(len(group), 3, device=self.device)
        for axis in range(3):
            here = free[:, axis].nonzero()[:, 0]
            if not len(here):
                continue
            if known is not None and not np.isnan(known[axis]):
                angles[here, axis] = float(2 * np.pi * known[axis])
                continue
            slot = torch.full_like(here, axis)
            mixtures = [
                model.coordinate_mixture(context[here], element[here], slot, angles[here]) for context in chosen
            ]
            angles[here, axis] = self._angle(mixtures)
        return letter, element, angles

    def _guided(self, logits: list[Tensor]) -> Tensor:
        if len(logits) == 1:
            return logits[0]
        with_, without = (torch.log_softmax(one, -1) for one in logits)
        weight = self.drawing.guidance
        return torch.where(torch.isneginf(with_), with_, (1 + weight) * with_ - weight * without)

    def _angle(self, mixtures: list[Mixture]) -> Tensor:
        kind, temperature = self.model.shape.coordinate, self.drawing.temperature
        if len(mixtures) == 1:
            return draw(kind, mixtures[0], temperature, self.rng)
        tries = torch.stack([draw(kind, mixtures[0], temperature, self.rng) for _ in range(CANDIDATES)])
        odds = log_density(kind, tries, mixtures[0]) - log_density(kind, tries, mixtures[1])
        return tries.gather(0, choose(self.drawing.guidance * odds.T, self.rng)[None])[0]

    def lattice(self, contexts: list[Tensor], group: Tensor, atoms: Tensor) -> Tensor:
        """(B, 6) Å and radians, for crystals of `atoms` (B,) atoms; see :meth:`site`."""
        cell, temperature = self.model.cell, self.drawing.temperature
        if len(contexts) == 1:
            return cell.sample(contexts[0], group, atoms, self.rng, temperature)
        tries = [cell.sample(contexts[0], group, atoms, self.rng, temperature) for _ in range(CANDIDATES)]
        odds = [
            cell.log_prob(contexts[0], group, one, atoms) - cell.log_prob(contexts[1], group, one, atoms)
            for one in tries
        ]
        best = choose(self.drawing.guidance * torch.stack(odds, 1), self.rng)
        return torch.stack(tries, 1)[torch.arange(len(best)), best]
