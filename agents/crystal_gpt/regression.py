"""A property of a crystal from the hidden states of the transformer: the network, and a trained model of one property.

After CrystalFormer's classifier: the hidden states of a crystal's tokens are averaged, its lattice is set beside them,
and a perceptron makes a number of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from megen_gym import runs
from megen_gym.agents.crystal_gpt.conditions import Known
from megen_gym.agents.crystal_gpt.encoding import Sites
from megen_gym.agents.crystal_gpt.network import CrystalGPT, Shape
from megen_gym.agents.nn.finding import Kind
from megen_gym.crystals import CrystalBatch
from megen_gym.errors import InputError
from megen_gym.structure import FloatArray

KIND = Kind("crystal_regressor", "regressor", "agents/crystal_gpt/regress.py")

CHUNK = 512
"""Crystals that are predicted at one time."""

_CELL = 9
"""Features of a lattice."""

_ENCODER = "conditions group family index letter element feature point amount trunk lattice"
"""Parts of the transformer that make hidden states of a crystal; the others decide what comes next."""


class Regressor(nn.Module):
    """One number from the hidden states of a crystal's tokens and its lattice.

    Args:
        trunk: The transformer, new or trained; what it decides letters, elements and places by is not used.
        hidden: Width of the perceptron.
        dropout: In the perceptron.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: CrystalGPT, hidden: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.trunk, self.hidden, self.dropout, width = trunk, hidden, dropout, trunk.shape.width
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("std", torch.ones((), dtype=torch.float64))
        self.cell = nn.Linear(_CELL, width)
        self.head = nn.Sequential(
            nn.Linear(3 * width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, 1),
        )  # fmt: skip
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)

    def fit(self, target: Tensor) -> None:
        """Set mean and standard deviation of the target from training values (B,)."""
        self.mean.copy_(target.double().mean())
        self.std.copy_(target.double().std().clamp(min=torch.finfo(torch.float64).tiny))

    def encoder(self) -> list[nn.Parameter]:
        """The parameters of the transformer that the prediction depends on."""
        parts = [getattr(self.trunk, name) for name in _ENCODER.split() if hasattr(self.trunk, name)]
        return [parameter for part in parts for parameter in part.parameters()]

    def states(self, sites: Sites) -> tuple[Tensor, Tensor]:
        """(B, W) mean hidden state over the atoms, and (B, W) that of the last site, which has seen all others."""
        tokens = [self.trunk.begin(sites.group)[:, None]]
        if self.trunk.shape.order == "first":
            tokens.append(self.trunk.lattice_token(sites.lattice)[:, None])
        seen = self.trunk.trunk(torch.cat([*tokens, self.trunk.site_tokens(sites)], 1))[:, len(tokens) :]
        weight = self.atoms(sites).to(seen.dtype)
        mean = (seen * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
        ends = (sites.letters > 0).sum(1) - 1
        return mean, seen[torch.arange(len(ends), device=ends.device), ends]

    def atoms(self, sites: Sites) -> Tensor:
        """(B, K) atoms of each site in the conventional cell, 0 where there is no site."""
        positions = self.trunk.positions
        return positions.multiplicity[positions.row(sites.group[:, None], sites.letters)] * (sites.letters > 0)

    def forward(self, sites: Sites) -> Tensor:
        """(B,) standardised values of crystals that have at least one site each."""
        edges, cosine = torch.log(sites.lattice[:, :3]), torch.cos(sites.lattice[:, 3:])
        square = 1 - (cosine**2).sum(1) + 2 * cosine.prod(1)
        volume = edges.sum(1) + torch.log(square.clamp(min=1e-4)) / 2
        count = torch.log(self.atoms(sites).sum(1).double())
        numbers = torch.stack([volume - 4.5, 3 * (volume - count - 2.7), count - 1.5], 1)
        features = torch.cat([edges - 1.5, 3 * cosine, numbers], 1).to(self.cell.weight.dtype)
        out: Tensor = self.head(torch.cat([*self.states(sites), self.cell(features)], 1))[:, 0]
        return out


@dataclass(eq=False)
class PropertyModel:
    """A regressor and what it knows about the data it has seen.

    Attributes:
        network: The regressor.
        name: Of the property; its unit is that of the data.
        elements: Atomic numbers that occur in the training data.
        symprec: Å, within which atoms counted as equivalent.
    """

    network: Regressor
    name: str
    elements: list[int] = field(default_factory=list)
    symprec: float = 0.01

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, as JSON."""
        network = self.network
        return {
            "shape": asdict(network.trunk.shape), "known": asdict(network.trunk.conditions.known), "name": self.name,
            "hidden": network.hidden, "dropout": network.dropout, "elements": self.elements, "symprec": self.symprec,
        }  # fmt: skip

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> PropertyModel:
        """The model of :meth:`describe` with weights."""
        known = Known(**{name: tuple(value) for name, value in data["known"].items()})
        network = Regressor(CrystalGPT(Shape(**data["shape"]), known), data["hidden"], data["dropout"])
        network.load_state_dict(dict(tensors))
        network.eval()
        return cls(network, str(data["name"]), list(data["elements"]), float(data["symprec"]))

    @property
    def n_max(self) -> int:
        """Sites at most."""
        return self.network.trunk.shape.n_max

    @torch.no_grad()
    def predict(self, crystals: CrystalBatch) -> FloatArray:
        """(B,) the property of crystals, in whatever order their sites are.

        Raises:
            InputError: for a crystal without sites, or with more than the model was made for.
        """
        most, least = int(crystals.n_sites.max(initial=0)), int(crystals.n_sites.min(initial=1))
        if most > self.n_max or least < 1:
            raise InputError(
                f"a crystal has {most if most > self.n_max else 0} sites, but the regressor was made for 1 to "
                f"{self.n_max}; leave such crystals out, or train it with a larger n_max"
            )
        if not len(crystals):
            return np.zeros(0)
        sites = Sites.of(crystals.ordered().padded(most))
        device, network = self.network.mean.device, self.network.eval()
        parts = [network(sites[rows].to(device)) for rows in torch.split(torch.arange(len(sites)), CHUNK)]
        return np.asarray((torch.cat(parts).double() * network.std + network.mean).cpu().numpy())

    def strangers(self, crystals: CrystalBatch) -> list[Sequence[int]]:
        """Of each crystal, the atomic numbers that the training data do not have."""
        return [sorted(set(row[row > 0].tolist()) - set(self.elements)) for row in crystals.elements]


def load_regressor(
    where: str | Path = "newest", root: str | Path = "runs", device: str = "cpu"
) -> tuple[PropertyModel, runs.Run]:
    """The regressor of a run, and the run: a run folder, a run id below `root`, or "newest" there.

    Raises:
        InputError: if there is no such run, or it holds no regressor.
    """
    run = KIND.find(where, root)
    model = PropertyModel.restore(run.load_weights(), run.load_state()[1]["model"])
    model.network.to(device)
    return model, run
