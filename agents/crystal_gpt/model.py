"""A trained model: the network and what it knows about the data it has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megen_gym import runs
from megen_gym.agents.crystal_gpt.conditions import COUNTED, Given, Known
from megen_gym.agents.crystal_gpt.encoding import Sites
from megen_gym.agents.crystal_gpt.network import CrystalGPT, Parts, Shape
from megen_gym.agents.crystal_gpt.settings import Settings
from megen_gym.agents.crystal_gpt.trunk import Block
from megen_gym.agents.nn.finding import Kind
from megen_gym.agents.nn.options import condition_names
from megen_gym.crystals import CrystalBatch
from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray

KIND = Kind("crystal_gpt", "crystal_gpt run", "agents/crystal_gpt/train.py")
"""Trained or tuned."""

CHUNK = 512
"""Crystals whose likelihood is computed at one time."""


@dataclass(eq=False)
class Model:
    """A network for crystals such as those of its data.

    Attributes:
        network: The transformer.
        groups: Training crystals by space group number.
        elements: Atomic numbers that occur in the training data.
        max_atoms: Atoms of its largest conventional cell.
        spread: Of each property, smallest and largest value in the training data.
    """

    network: CrystalGPT
    groups: dict[int, int] = field(default_factory=dict)
    elements: list[int] = field(default_factory=list)
    max_atoms: int = 0
    spread: dict[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def build(
        cls, settings: Settings, crystals: CrystalBatch, names: Sequence[str], properties: FloatArray, n_max: int
    ) -> Model:
        """A new network, from torch's global random state, for training crystals.

        Args:
            settings: Resolved.
            crystals: The training data.
            names: Of the properties.
            properties: (B, P), NaN where not known.
            n_max: Sites at most.

        Raises:
            InputError: for a condition that is no property.
        """
        wanted = condition_names(settings.conditions)
        for name in wanted:
            if name not in COUNTED and name not in names:
                raise InputError(
                    f"condition {name!r} is no property of the data; {nearest(name, [*names, *COUNTED])}; "
                    f"there are {', '.join([*names, *COUNTED])}"
                )
        chosen = [name for name in wanted if name not in COUNTED]
        columns = properties[:, [list(names).index(name) for name in chosen]]
        for name, column in zip(chosen, columns.T, strict=True):
            if np.isfinite(column).sum() < 2 or np.nanstd(column) == 0:
                raise InputError(f"condition {name!r} does not vary in the data; leave it out")
        known = Known(
            tuple(chosen),
            tuple(np.nanmean(columns, 0).tolist()),
            tuple(np.nanstd(columns, 0).tolist()),
            tuple(name for name in wanted if name in COUNTED),
        )
        assert settings.transformer_layers and settings.model_size and settings.num_heads  # noqa: PT018
        assert settings.key_size and settings.h0_size  # noqa: PT018
        shape = Shape(
            order=settings.order, n_max=n_max, layers=settings.transformer_layers, width=settings.model_size,
            heads=settings.num_heads, key=settings.key_size, hidden=settings.h0_size, frequencies=settings.Nf,
            components=settings.Kx, lattice_components=settings.Kl, coordinate=settings.coordinate,
            dropout=settings.dropout_rate, floor=settings.floor,
        )  # fmt: skip
        network = CrystalGPT(shape, known)
        sites = Sites.of(crystals)
        network.cell.fit(sites.lattice, sites.group, torch.from_numpy(crystals.n_atoms))
        model = cls(network)
        model.relearn(crystals, names, properties, settings.dropout_rate)
        return model

    def relearn(self, crystals: CrystalBatch, names: Sequence[str], properties: FloatArray, dropout: float) -> None:
        """Take note of other training data, and set the dropout; weights stay.

        Raises:
            InputError: where a property that the model is conditioned on is missing.
        """
        numbers, counts = np.unique(crystals.group, return_counts=True)
        self.groups = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        self.elements = np.unique(crystals.elements[crystals.letters > 0]).tolist()
        self.max_atoms = int(crystals.n_atoms.max())
        self.spread = {}
        for name in self.known.properties:
            if name not in names:
                raise InputError(
                    f"the model was trained with the property {name!r}, which the data does not have; add it"
                )
            column = properties[:, list(names).index(name)]
            self.spread[name] = (float(np.nanmin(column)), float(np.nanmax(column)))
        for module in self.network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
            elif isinstance(module, Block):
                module.dropout = dropout

    @property
    def known(self) -> Known:
        """What the model can be conditioned on."""
        return self.network.conditions.known

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.group.weight.device

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, as JSON."""
        return {
            "shape": asdict(self.network.shape), "known": asdict(self.known), "elements": self.elements,
            "groups": {str(number): count for number, count in self.groups.items()}, "max_atoms": self.max_atoms,
            "spread": {name: list(ends) for name, ends in self.spread.items()},
        }  # fmt: skip

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> Model:
        """The model of :meth:`describe` with weights."""
        known = Known(**{name: tuple(value) for name, value in data["known"].items()})
        network = CrystalGPT(Shape(**data["shape"]), known)
        network.load_state_dict(dict(tensors))
        network.eval()
        groups = {int(number): count for number, count in data["groups"].items()}
        spread = {name: (ends[0], ends[1]) for name, ends in data["spread"].items()}
        return cls(network, groups, list(data["elements"]), int(data["max_atoms"]), spread)

    def given(self, crystals: CrystalBatch, names: Sequence[str], properties: FloatArray) -> Given | None:
        """All that the model can be conditioned on, read off crystals; None for a model without conditions."""
        if not self.known.names:
            return None
        columns = np.full((len(crystals), len(self.known.properties)), np.nan)
        for index, name in enumerate(self.known.properties):
            if name in names:
                columns[:, index] = properties[:, list(names).index(name)]
        values = torch.from_numpy(columns.astype(np.float32)).to(self.device)
        return Given.of(Sites.of(crystals).to(self.device), values, self.network.positions)

    def check(self, crystals: CrystalBatch) -> CrystalBatch:
        """`crystals`, padded to the model's width.

        Raises:
            InputError: for one that has too many sites.
        """
        n_max = self.network.shape.n_max
        if int(crystals.n_sites.max(initial=0)) > n_max:
            raise InputError(
                f"a crystal has {int(crystals.n_sites.max())} sites, but the model was made for n_max={n_max}; leave "
                "such crystals out, or train with a larger n_max"
            )
        return crystals.padded(n_max)

    @torch.no_grad()
    def log_prob(self, crystals: CrystalBatch, given: Given | None = None, floor: float = 0.0) -> Parts:
        """Logarithm of the likelihood of each crystal, part by part; see :meth:`.network.CrystalGPT.log_prob`.

        Raises:
            InputError: for a crystal with more sites than the model was made for.
        """
        sites = Sites.of(self.check(crystals))
        rows = torch.split(torch.arange(len(sites)), CHUNK)
        parts = [
            self.network.log_prob(sites[row].to(self.device), None if given is None else given[row], floor)
            for row in rows
        ]
        if not parts:
            return Parts(*(torch.zeros(0) for _ in range(4)))
        return Parts(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))


def load_model(where: str | Path = "newest", root: str | Path = "runs", device: str = "cpu") -> tuple[Model, runs.Run]:
    """The model of a run, and the run: a run folder, a run id below `root`, or "newest" there.

    Raises:
        InputError: if there is no such run, or it holds no crystal_gpt.
    """
    run = KIND.find(where, root)
    model = Model.restore(run.load_weights(), run.load_state()[1]["model"])
    model.network.to(device)
    return model, run
