"""What is trained, by name: PolySRL, its deterministic form, and the published baselines."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from megen_gym.agents.polysrl import losses
from megen_gym.agents.polysrl.network import CompositionNetwork, Distribution
from megen_gym.agents.polysrl.settings import Settings
from megen_gym.agents.polysrl.structure_network import GraphBatch, StructureNetwork

MOST = 40.0
"""Of a logarithm of a standard deviation, where clipping is on; as published."""


class Batch(NamedTuple):
    """N compositions and S crystals.

    Attributes:
        numbers: (N, E) atomic numbers, 0 for padding.
        amounts: (N, E).
        graphs: Of the crystals; None for embedders that see none.
        owner: (S,) composition of each crystal.
        same: (N, S) pairs that belong together.
        target: (S,) standardised property; None for embedders that learn none.
    """

    numbers: Tensor
    amounts: Tensor
    graphs: GraphBatch | None
    owner: Tensor
    same: Tensor
    target: Tensor | None


class Embedder(nn.Module, ABC):
    """A composition network with a loss.

    Attributes:
        sees_structures: Whether a batch must have graphs.
        learns: Names of properties that it learns, the first one there counts; none for embedders without.
    """

    sees_structures: ClassVar[bool] = True
    learns: ClassVar[tuple[str, ...]] = ()

    def __init__(self, composition: CompositionNetwork, settings: Settings) -> None:
        super().__init__()
        self.composition, self.settings = composition, settings
        if self.sees_structures:
            features = None if settings.no_node_feature else settings.element_features
            self.structure = StructureNetwork(composition.shape.hidden_dim, settings.str_layers, features)

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """() loss per crystal, and what is logged of it."""

    def compose(self, batch: Batch) -> Distribution:
        """Of the compositions."""
        mean, log_std = self.composition(batch.numbers, batch.amounts)
        return Distribution(mean, log_std.clamp(max=MOST) if self.settings.clip else log_std)

    def crystals(self, batch: Batch) -> Tensor:
        """(S, H)."""
        assert batch.graphs is not None
        found: Tensor = self.structure(batch.graphs)
        return found


class PolySRL(Embedder):
    """Soft contrast between samples of the distributions and structures (PolySRL, eqs. 4 to 6)."""

    def __init__(self, composition: CompositionNetwork, settings: Settings) -> None:
        super().__init__(composition, settings)
        self.negative_scale = nn.Parameter(torch.tensor(settings.negative_scale))
        self.shift = nn.Parameter(torch.tensor(settings.shift))

    def samples(self, distribution: Distribution) -> Tensor:
        """(N, J, H)."""
        return losses.draw(distribution, self.settings.n_samples, self.settings.reparameterize)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See :func:`.losses.soft_contrastive`."""
        s = self.settings
        distribution, points = self.compose(batch), self.crystals(batch)
        samples = self.samples(distribution)
        together = batch.same.sum()
        balance = (~batch.same).sum() / together.clamp_min(1) if s.balance is None else torch.tensor(s.balance)
        contrast = losses.soft_contrastive(samples, points, batch.same, self.negative_scale, self.shift, balance)
        total = contrast.total
        if s.uniform:
            total = total + s.uniform * losses.uniformity(torch.cat([samples.flatten(0, 1), points]))
        if s.vib:
            total = total + s.vib * self.information(samples, distribution)
        with torch.no_grad():
            near = self.negative_scale * contrast.distance.mean(1) < self.shift
            told = {
                "contrast": contrast.total / len(points),
                "right_pos": (near & batch.same).sum() / together.clamp_min(1),
                "right_neg": (~near & ~batch.same).sum() / (~batch.same).sum().clamp_min(1),
                "distance_pos": (contrast.distance.mean(1) * batch.same).sum() / together.clamp_min(1),
                "mean_log_std": distribution.log_std.mean(),
                "max_log_std": distribution.log_std.max(),
                "negative_scale": self.negative_scale,
                "shift": self.shift,
            }
        return total / len(points), {name: value.detach() for name, value in told.items()}

    def information(self, samples: Tensor, distribution: Distribution) -> Tensor:
        """() nats of the bottleneck."""
        if self.composition.shape.weighting == "counts":
            return losses.kl_published(samples, distribution.log_std)
        return losses.kl_to_normal(distribution)


class Deterministic(PolySRL):
    """The ablation: the mean alone, without a bottleneck."""

    def samples(self, distribution: Distribution) -> Tensor:
        return distribution.mean[:, None]

    def information(self, samples: Tensor, distribution: Distribution) -> Tensor:
        return samples.new_zeros(())


class Infomax(Embedder):
    """3D Infomax (Stärk et al., ICML 2022): each composition picks its structures out of a batch."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """See :func:`.losses.info_nce`."""
        value = losses.info_nce(self.compose(batch).mean, self.crystals(batch), batch.same, self.settings.tau)
        return value, {"contrast": value.detach()}


class GraphCL(Embedder):
    """GraphCL (You et al., NeurIPS 2020): two views of a composition, with edges of its graph left out at random."""

    sees_structures = False

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """InfoNCE between the views, in both directions."""
        first, second = (self.view(batch, share) for share in (self.settings.p_e1, self.settings.p_e2))
        same = torch.eye(len(first), dtype=torch.bool, device=first.device)
        tau = self.settings.tau
        value = (losses.info_nce(first, second, same, tau) + losses.info_nce(second, first, same, tau)) / 2
        return value, {"contrast": value.detach()}

    def view(self, batch: Batch, dropped: float) -> Tensor:
        """(N, H) with a share of the edges between different elements left out."""
        size = batch.numbers.shape[1]
        edges = torch.rand(len(batch.numbers), size, size, device=batch.amounts.device) >= dropped
        edges |= torch.eye(size, dtype=torch.bool, device=edges.device)
        mean: Tensor = self.composition(batch.numbers, batch.amounts, edges.to(batch.amounts.dtype)).mean
        return mean


class Supervised(Embedder):
    """A property of the crystals, learned from their compositions."""

    sees_structures = False

    def __init__(self, composition: CompositionNetwork, settings: Settings) -> None:
        super().__init__(composition, settings)
        self.predictor = nn.Linear(composition.shape.hidden_dim, 1)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Absolute error, in standard deviations of the property."""
        assert batch.target is not None
        predicted = self.predictor(self.compose(batch).mean * math.sqrt(self.composition.shape.hidden_dim))[:, 0]
        value = functional.l1_loss(predicted[batch.owner], batch.target)
        return value, {"mae": value.detach()}


class BandGap(Supervised):
    """Pretraining on band gaps."""

    learns = ("band_gap", "bandgap", "gap", "dir_gap")


class FormationEnergy(Supervised):
    """Pretraining on energies of formation (published: on total energies per atom, under this name)."""

    learns = ("formation_energy_per_atom", "e_form", "heat_all", "energy_per_atom")


EMBEDDERS: dict[str, type[Embedder]] = {
    "PolySRL": PolySRL,
    "PolySRL_det": Deterministic,
    "3DInfomax": Infomax,
    "GraphCL": GraphCL,
    "MPBandG": BandGap,
    "MPFormE": FormationEnergy,
}
