"""A trained model: the network, and what it knows about the molecules it has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megen_gym import runs
from megen_gym.agents.gschnet.conditions import Condition, Conditioning
from megen_gym.agents.gschnet.molecules import Molecules
from megen_gym.agents.gschnet.network import GSchNet, Shape
from megen_gym.agents.gschnet.preparing import Connectivity, distances
from megen_gym.agents.gschnet.properties import RelativeEnergy
from megen_gym.agents.gschnet.settings import Settings, connectivity_of, numbers_of
from megen_gym.agents.nn.finding import Kind
from megen_gym.agents.nn.options import condition_names
from megen_gym.errors import InputError

KIND = Kind("gschnet", "G-SchNet run", "agents/gschnet/train.py")
"""Trained or tuned."""

TRAINING = Kind("gschnet", "training of G-SchNet", "agents/gschnet/train.py", without="gschnet_tune")


@dataclass(eq=False)
class Model:
    """A network for molecules such as those of its data.

    Attributes:
        network: Of G-SchNet.
        connectivity: What made atoms neighbours.
        largest: Atoms of the largest training molecule.
        shortest: Å, nearest neighbours in the training data.
        relative: Regression behind the relative atomic energy.
        pbc: Periodic axes of the training data.
    """

    network: GSchNet
    connectivity: Connectivity
    largest: int
    shortest: float
    relative: RelativeEnergy | None = None
    pbc: tuple[bool, bool, bool] = (False, False, False)

    @classmethod
    def build(cls, settings: Settings, molecules: Molecules, relative: RelativeEnergy | None) -> Model:
        """A new network, from torch's global random state.

        Args:
            settings: Resolved.
            molecules: To be trained on, with a property for each condition.
            relative: Fitted to them.
        """
        types = numbers_of(settings.atom_types)
        conditions = [
            Condition.of(
                name,
                molecules.properties[name],
                molecules.units.get(name, ""),
                types,
                settings.condition_options.get(name),
            )
            for name in condition_names(settings.conditions)
        ]
        s = settings
        assert s.features and s.n_interactions and s.head_hidden  # noqa: PT018
        shape = Shape(
            types, s.model, s.features, s.n_interactions, s.n_rbf, s.model_cutoff, s.prediction_cutoff,
            s.placement_cutoff, s.cutoff_fn == "cosine", s.head_layers, s.head_hidden, s.distance_prediction_min_dist,
            s.distance_prediction_max_dist, s.n_bins, s.average_type_distributions, s.dist_label_width_factor,
            s.use_origin and not any(molecules.pbc), s.origin_type, s.focus_type, s.stop_type,
        )  # fmt: skip
        network = network_of(shape, conditions)
        nearest = shortest(molecules, s.placement_cutoff)
        largest = int(molecules.n_atoms.max())
        return cls(network, connectivity_of(settings), largest, nearest, relative, molecules.pbc)

    def on(self, settings: Settings, molecules: Molecules) -> Model:
        """The same network, to be trained on other molecules with a property for each condition.

        Raises:
            InputError: for molecules that it cannot be trained on.
        """
        if self.network.shape.origin and any(molecules.pbc):
            raise InputError("the data is periodic, but the run to load has an origin token; train anew")
        ranges = []
        for old in self.conditions:
            unit = molecules.units.get(old.name, "")
            if unit != old.unit:
                raise InputError(
                    f"{old.name} is in {unit or 'no unit'}, but in the run to load in {old.unit or 'no unit'}; say it: "
                    f"--property_units {old.name}={old.unit or 1}"
                )
            new = Condition.of(old.name, molecules.properties[old.name], unit, old.atom_types)
            ranges.append(replace(old, low=min(old.low, new.low), high=max(old.high, new.high)))
        if self.network.conditioning is not None:
            self.network.conditioning.conditions = tuple(ranges)
        largest = max(self.largest, int(molecules.n_atoms.max()))
        nearest = min(self.shortest, shortest(molecules, settings.placement_cutoff))
        return replace(self, connectivity=connectivity_of(settings), largest=largest, shortest=nearest)

    @property
    def grid_distance_min(self) -> float:
        """Å between a new atom and its focus at least: 0.7 as published, more where no atoms are that near."""
        return 0.7 if self.shortest < 1.5 or not np.isfinite(self.shortest) else 0.9 * self.shortest

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What molecules can be asked for."""
        return () if self.network.conditioning is None else self.network.conditioning.conditions

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, as JSON."""
        return {
            "shape": asdict(self.network.shape),
            "conditions": [asdict(condition) for condition in self.conditions],
            "connectivity": asdict(self.connectivity),
            "largest": self.largest,
            "shortest": self.shortest,
            "pbc": list(self.pbc),
            "relative": None if self.relative is None else self.relative.to_dict(),
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> Model:
        """The model of :meth:`describe` with weights."""
        conditions = [Condition(**(each | {"atom_types": tuple(each["atom_types"])})) for each in data["conditions"]]
        shape = Shape(**(data["shape"] | {"atom_types": tuple(data["shape"]["atom_types"])}))
        network = network_of(shape, conditions)
        network.load_state_dict(dict(tensors))
        relative = None if data["relative"] is None else RelativeEnergy.from_dict(data["relative"])
        connectivity = Connectivity(**data["connectivity"])
        first, second, third = data.get("pbc", (False, False, False))
        size, near = int(data["largest"]), float(data["shortest"])
        return cls(network.eval(), connectivity, size, near, relative, (first, second, third))


def network_of(shape: Shape, conditions: Sequence[Condition]) -> GSchNet:
    """A new network of the kind that the shape names."""
    conditioning = Conditioning(conditions) if conditions else None
    if shape.model == "equivariant":
        from megen_gym.agents.gschnet.equivariant import EquivariantGSchNet

        return EquivariantGSchNet(shape, conditioning)
    return GSchNet(shape, conditioning)


def shortest(molecules: Molecules, reach: float) -> float:
    """Å between the two nearest atoms of any molecule, their images included up to `reach`."""
    least = np.inf
    for part in np.array_split(np.arange(len(molecules)), -(-len(molecules) // 1000)):
        least = min(least, float(distances(molecules[part], reach).min(initial=np.inf)))
    return least


def load_model(where: str | Path = "newest", root: str | Path = "runs", device: str = "cpu") -> tuple[Model, runs.Run]:
    """The model of a run, and the run: a run folder, a run id below `root`, or "newest" there.

    Raises:
        InputError: if there is no such run, or it holds no G-SchNet.
    """
    run = KIND.find(where, root)
    model = Model.restore(run.load_weights(), run.load_state()[1]["model"])
    model.network.to(torch.device(device))
    return model, run
