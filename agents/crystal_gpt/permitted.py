"""The likelihood of crystals under hard conditions: what was drawn among some of the choices is likelier than the
model says, by the share of the choices that were allowed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megen_gym.agents.crystal_gpt.conditions import Given
from megen_gym.agents.crystal_gpt.encoding import ELEMENTS, Sites
from megen_gym.agents.crystal_gpt.network import LETTERS, CrystalGPT
from megen_gym.agents.crystal_gpt.wanted import Wanted


@dataclass(frozen=True, eq=False)
class Permitted:
    """What could be chosen when B crystals were drawn.

    Attributes:
        letters: (B, n_max, 28) bool.
        elements: (B, n_max, 119) bool.
    """

    letters: Tensor
    elements: Tensor

    def __getitem__(self, rows: Tensor) -> Permitted:
        return Permitted(self.letters[rows], self.elements[rows])


def replayed(network: CrystalGPT, sites: Sites, wanted: Wanted) -> Permitted | None:
    """What hard conditions allowed at each site of crystals that were drawn under them; None for everything."""
    if wanted.elements is None and wanted.goals is None and wanted.template is None:
        return None
    size, n_max, positions = len(sites), network.shape.n_max, network.positions
    device = sites.group.device
    letters = torch.ones(size, n_max, LETTERS, dtype=torch.bool, device=device)
    elements = torch.ones(size, n_max, ELEMENTS, dtype=torch.bool, device=device)
    progress = wanted.start(sites.group, n_max)
    rows, before = torch.arange(size, device=device), torch.zeros_like(sites.group)
    for step in range(n_max):
        group, letter, element = sites.group[rows], sites.letters[rows, step], sites.elements[rows, step]
        letters[rows, step] = progress.letters(network.allowed_letters(group, before))
        usable = progress.elements(letter)
        if usable is not None:
            elements[rows, step] = usable
        position = positions.row(group, letter)
        count = positions.multiplicity[position] * (letter > 0)
        progress.add(letter, element, count, ~positions.free[position].any(-1))
        going = letter > 0
        if not going.any():
            break
        rows, before = rows[going], letter[going]
        progress.keep(going)
    return Permitted(letters, elements)


def log_likelihood(
    network: CrystalGPT, sites: Sites, given: Given | None = None, permitted: Permitted | None = None
) -> Tensor:
    """(B, 4) logarithm of the likelihood with which crystals are drawn: letters, elements, coordinates, lattice.

    Args:
        network: In evaluation mode, so that the same weights give the same numbers.
        sites: Crystals.
        given: Soft conditions.
        permitted: Of :func:`replayed`.
    """
    parts = torch.stack(list(network.log_prob(sites, given)), 1)
    if permitted is None:
        return parts
    width = int((sites.letters > 0).sum(1).max())
    sites = sites.columns(0, width)
    context, _ = network.contexts(sites, given)
    filled = sites.letters > 0
    before = torch.cat([torch.zeros_like(sites.group)[:, None], sites.letters], 1)
    decided = torch.cat([torch.ones_like(filled[:, :1]), filled], 1)
    decided[:, network.shape.n_max :] = False
    row, step = decided.nonzero(as_tuple=True)
    logits = network.letter_logits(context[row, step], network.allowed_letters(sites.group[row], before[row, step]))
    w = _mass(logits, permitted.letters[row, step], row, len(sites))
    row, step = filled.nonzero(as_tuple=True)
    chosen = network.with_letter(context[row, step], sites.group[row], sites.letters[row, step])
    a = _mass(network.element_logits(chosen), permitted.elements[row, step], row, len(sites))
    zero = torch.zeros_like(w)
    return parts - torch.stack([w, a, zero, zero], 1)


def _mass(logits: Tensor, allowed: Tensor, row: Tensor, size: int) -> Tensor:
    """(size,) sum over the decisions (R,) of each crystal of the logarithm of the allowed share."""
    share = torch.logsumexp(torch.log_softmax(logits, -1).masked_fill(~allowed, -torch.inf), -1)
    return torch.zeros(size, dtype=share.dtype, device=share.device).index_add(0, row, share)
