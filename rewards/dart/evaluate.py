"""Energies of many clusters at once, without gradients: the fast path behind the rewards.

An atom's shell contributions are looked up in a table of distinct count triples that grows as new triples turn up;
what is left per atom is one sum of table rows and the head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from megen_gym.rewards.base import KCAL_PER_MOL
from megen_gym.rewards.dart import tad
from megen_gym.rewards.dart.net import DartNet

PAIRS_PER_PASS = {"cpu": 1 << 15}
"""Entries of the distance matrices held at once, by kind of device: on a processor they stay in the cache of a core."""

PAIRS_PER_PASS_ELSEWHERE = 1 << 23

ROWS = 16
"""Atoms go through the network in multiples of this many."""

TRIPLES_KEPT = 1 << 14
"""The table is begun anew beyond this many distinct triples."""


class Energies(NamedTuple):
    """What :class:`Evaluator` gives for B structures of up to N atoms.

    Attributes:
        atomic: (B, N) kcal/mol, output of the network for each atom; zero where there is none.
        repulsion: (B,) eV, pair repulsion; zero for weights without it.
        counts: (B, N, 3) descriptor of each atom.
    """

    atomic: Tensor
    repulsion: Tensor
    counts: Tensor

    @property
    def total(self) -> Tensor:
        """(B,) eV, float64."""
        return self.atomic.sum(1, dtype=torch.float64) * KCAL_PER_MOL + self.repulsion


class Evaluator:
    """Inference with fixed weights.

    Args:
        net: Network; it is copied, later changes of it have no effect.
        dtype: Of the network's arithmetic; distances are float64 always.
        device: Where to compute.
    """

    def __init__(self, net: DartNet, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        # The table is made once per triple: in float64, whatever the rest is computed in.
        self._exact = DartNet.from_state(net.state_dict()).double().requires_grad_(False).to(self.device)
        self._net = DartNet.from_state(net.state_dict()).requires_grad_(False).to(self.device, dtype)
        self._codes = torch.empty(0, dtype=torch.int64, device=self.device)
        self._table = self._net.inter1.weight.new_zeros(1, self._net.widths[2])

    @torch.inference_mode()
    def __call__(self, positions: Tensor, mask: Tensor) -> Energies:
        """Energies of `positions` (B, N, 3) Å with atoms where `mask` (B, N) is true."""
        positions, mask = positions.to(self.device), mask.to(self.device)
        if not mask.shape[1]:
            empty = positions.new_zeros(len(mask), 0)
            return Energies(empty, positions.new_zeros(len(mask)), empty.long()[..., None].expand(-1, -1, 3))
        pairs = PAIRS_PER_PASS.get(self.device.type, PAIRS_PER_PASS_ELSEWHERE)
        rows = max(1, pairs // max(1, mask.shape[1] ** 2))
        parts = [
            self._pass(positions[at : at + rows], mask[at : at + rows]) for at in range(0, max(1, len(mask)), rows)
        ]
        return Energies(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _pass(self, positions: Tensor, mask: Tensor) -> Energies:
        pairs = tad.distances(positions, mask)
        guarded = self._net.repulsion is not None
        counts, shell = tad.topology(tad.stretched(pairs, self._net.bond) if guarded else pairs)
        kind = self._kinds(tad.pack(counts))
        bags = tad.bags(shell, kind, len(self._codes))
        atomic = torch.zeros(mask.shape, dtype=self._table.dtype, device=self.device)
        if bool(mask.any()):
            listed = bags.flatten(0, 1) if bool(mask.all()) else bags[mask]
            # Products of few rows round differently from those of many: never compute few.
            few = functional.pad(listed, (0, 0, 0, -len(listed) % ROWS), value=tad.SHELLS * len(self._codes))
            atomic[mask] = self._net.head(self._table, few)[: len(listed)]
        return Energies(atomic, self._repulsion(pairs), counts)

    def _kinds(self, codes: Tensor) -> Tensor:
        """(B, N) place of each code among the known ones, after the unknown ones were added to the table."""
        if len(self._codes):
            kind = torch.searchsorted(self._codes, codes).clamp_max_(len(self._codes) - 1)
            if bool((self._codes[kind] == codes).all()):
                return kind
        new = torch.unique(codes)
        merged = torch.unique(torch.cat([self._codes, new]))
        self._codes = merged if len(merged) <= TRIPLES_KEPT else new
        self._table = self._exact.table(tad.unpack(self._codes)).to(self._table.dtype)
        return torch.searchsorted(self._codes, codes)

    def _repulsion(self, pairs: Tensor) -> Tensor:
        """(B,) eV."""
        repulsion = self._exact.repulsion
        total = pairs.new_zeros(len(pairs))
        if repulsion is None:
            return total
        n = pairs.shape[1]
        near = (pairs < repulsion.switch[1]) & torch.ones(n, n, dtype=torch.bool, device=self.device).triu(1)
        structure = near.nonzero()[:, 0]
        return total.index_add_(0, structure, repulsion(pairs[near]))
