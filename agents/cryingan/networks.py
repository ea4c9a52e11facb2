"""A GAN as one object: system, sites, generator, its moving average, and one or two critics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from megen_gym import runs
from megen_gym.agents.cryingan.critics import AtomSetCritic, PeriodicView, PublishedView, View
from megen_gym.agents.cryingan.generator import CHUNK, Fourier, SiteGenerator
from megen_gym.agents.cryingan.published import PublishedCritic, PublishedGenerator
from megen_gym.agents.cryingan.settings import KIND, Settings, resolved
from megen_gym.agents.cryingan.sites import Sites
from megen_gym.agents.cryingan.system import System
from megen_gym.agents.nn.resuming import settings_of
from megen_gym.structure import FloatArray, StructureBatch

CALIBRATION = 1024
"""Latents that fix the default generator's means and spreads."""

Net = PublishedGenerator | SiteGenerator


@dataclass(eq=False)
class GAN:
    """Everything that defines a trained model.

    Attributes:
        settings: What it was made with; nothing null.
        system: The fixed part of the structures.
        sites: Average structure of the data.
        spacing: Å, mean distance of nearest neighbours in the data.
        generator: Trained by steps.
        average: Moving average of the generator, which samples are drawn from.
        coordinate: Coordinate critic.
        distance: Distance critic; None for ``weight_dist=0``.
        view: What critics see of a structure.
        real_score: Mean and spread (standard deviation) of the weighted score of real structures.
        valid_distance: Å that all distances of a valid structure reach.
    """

    settings: Settings
    system: System
    sites: Sites
    spacing: float
    generator: Net
    average: Net
    coordinate: nn.Module
    distance: nn.Module | None
    view: View
    real_score: tuple[float, float] = (0.0, 1.0)
    valid_distance: float = 0.0

    @classmethod
    def build(cls, settings: Settings, system: System, sites: Sites, spacing: float) -> GAN:
        """New networks, from torch's global random state."""
        counts = system.counts
        view: View
        coordinate: nn.Module
        distance: nn.Module | None = None
        assert settings.latent_dim is not None
        assert settings.gen_channels_1 is not None
        if settings.preset == "published":
            view = PublishedView(system, settings.n_neighbors)
            options = (counts, settings.latent_dim, settings.gen_channels_1, settings.bn_eps)
            generator: Net = PublishedGenerator(*options)
            average: Net = PublishedGenerator(*options)
            coordinate = PublishedCritic(counts)
            if settings.weight_dist > 0:
                distance = PublishedCritic(counts, view.columns)
        else:
            view = PeriodicView(system, settings.n_neighbors, spacing)
            arguments = (system, sites, spacing, settings.latent_dim, settings.gen_channels_1)
            generator, average = SiteGenerator(*arguments), SiteGenerator(*arguments)
            coordinate = AtomSetCritic(counts, 3, Fourier(system.lattice, spacing), spacing)
            if settings.weight_dist > 0:
                distance = AtomSetCritic(counts, view.columns, None, spacing)
        average.load_state_dict(generator.state_dict())
        average.requires_grad_(False).eval()
        return cls(settings, system, sites, spacing, generator, average, coordinate, distance, view)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The networks by name."""
        named: dict[str, nn.Module | None] = {
            "generator": self.generator,
            "average": self.average,
            "coordinate": self.coordinate,
            "distance": self.distance,
        }
        return {name: module for name, module in named.items() if module is not None}

    def to(self, device: str) -> GAN:
        """Move the networks."""
        for module in self.modules.values():
            module.to(device)
        return self

    def state(self) -> dict[str, Tensor]:
        """All weights by name."""
        weights = {
            f"{name}.{key}": value for name, net in self.modules.items() for key, value in net.state_dict().items()
        }
        return weights | {f"sites.{name}": torch.from_numpy(value) for name, value in vars(self.sites).items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`state`."""
        for name, net in self.modules.items():
            prefix = f"{name}."
            net.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        self.calibrate()

    def describe(self) -> dict[str, Any]:
        """What a checkpoint holds beside the tensors, as JSON."""
        return {"system": self.system.to_json(), "spacing": self.spacing, "real_score": list(self.real_score)} | {
            "valid_distance": self.valid_distance
        }

    @classmethod
    def restore(cls, settings: Settings, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> GAN:
        """The model of :meth:`state` and :meth:`describe`."""
        sites = Sites(**{f.name: tensors[f"sites.{f.name}"].numpy() for f in fields(Sites)})
        gan = cls.build(settings, System.from_json(data["system"]), sites, float(data["spacing"]))
        mean, spread = data["real_score"]
        gan.real_score = (float(mean), float(spread))
        gan.valid_distance = float(data["valid_distance"])
        gan.load_state(tensors)
        return gan

    def latents(self, count: int, rng: torch.Generator) -> Tensor:
        """(count, latent_size) standard normal numbers."""
        return torch.randn(count, self.generator.latent_size, generator=rng)

    def calibrate(self) -> None:
        """Fix the running means of the average, which are not averaged but measured, with latents of their own."""
        if isinstance(self.average, SiteGenerator):
            rng = torch.Generator().manual_seed(0)
            device = self.average.anchors.device
            self.average.calibrate(self.latents(CALIBRATION, rng).to(device))

    @torch.no_grad()
    def generate(self, z: Tensor) -> StructureBatch:
        """Structures in the system's order from latents (B, latent_size), in chunks."""
        device = next(self.average.parameters()).device
        self.average.eval()
        parts = [self.average(part.to(device)).cpu().numpy() for part in torch.split(z, CHUNK)]
        fractions: FloatArray = np.concatenate(parts) if parts else np.zeros((0, len(self.system.numbers), 3))
        return self.system.batch(fractions)

    def sample(self, count: int, seed: int | torch.Generator = 0) -> StructureBatch:
        """`count` structures; the same ones for the same seed."""
        rng = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        parts = [self.latents(min(CHUNK, count - at), rng) for at in range(0, count, CHUNK)]
        return self.generate(torch.cat(parts) if parts else torch.zeros(0, self.generator.latent_size))

    def scores(self, fractions: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) of the coordinate and the distance critic, for grouped fractions (B, N, 3); zeros without the latter."""
        coordinate = self.coordinate(self.view.places(fractions)).mean(-1)
        if self.distance is None:
            return coordinate, torch.zeros_like(coordinate)
        return coordinate, self.distance(self.view.distances(fractions)).mean(-1)


def load_gan(where: str | Path, root: str | Path = "runs") -> tuple[GAN, Path]:
    """The model of a run and its folder: a run folder, a run id below `root`, or "newest" there.

    Raises:
        InputError: if there is no such run, or it holds no CryinGAN.
    """
    run = KIND.find(where, root)
    settings = resolved(settings_of(Settings, run.settings[KIND.key]))
    tensors, meta = run.load_state()
    best = run.path / runs.WEIGHTS
    return GAN.restore(settings, run.load_weights() if best.exists() else tensors, meta["gan"]), run.path
