"""Wasserstein GAN training with gradient penalty, one epoch at a time, continued to the bit from its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from megen_gym.agents.cryingan.networks import GAN
from megen_gym.agents.cryingan.symmetry import Symmetry
from megen_gym.agents.nn.optimizers import load_optimizer, optimizer_tensors
from megen_gym.structure import FloatArray, IntArray

PENALTY = 10.0
"""Weight of the gradient penalty (Gulrajani et al., NeurIPS 2017)."""

WARM_UP = 10
"""The moving average begins as an average over about this share of the steps so far."""

COLUMNS = ("distance_dis", "cost_dis", "cost_gen", "D_real", "D_fake")
WITH_DISTANCES = ("D_dist_real", "D_dist_fake")


class Trainer:
    """The optimisers and the data beside a :class:`.networks.GAN`.

    As published, the gradient penalty holds for the sum of a critic's outputs and the losses use their mean, so that
    with the published critics of ten outputs ``distance_dis`` is a tenth of the Wasserstein distance.

    Args:
        gan: The networks.
        fractions: (B, N, 3), grouped.
        matched: (B, N), atom of each structure at each site.
        symmetry: Operations that real structures are turned by.
        device: Of the networks.
    """

    def __init__(self, gan: GAN, fractions: FloatArray, matched: IntArray, symmetry: Symmetry, device: str) -> None:
        settings = gan.settings
        self.gan, self.device, self.epoch, self.batches = gan, device, 0, 0
        self.rng = torch.Generator().manual_seed(settings.seed + 1)
        self.real = torch.tensor(fractions, dtype=torch.float32, device=device)
        self.augmented = bool(settings.augment) and len(symmetry) > 1
        self.symmetry, self.matched = symmetry, matched
        site = np.argsort(matched, axis=1)
        self.site = torch.from_numpy(site).to(device)
        self.rotations = torch.tensor(symmetry.rotations, dtype=torch.float32, device=device)
        self.translations = torch.tensor(symmetry.translations, dtype=torch.float32, device=device)
        self.targets = torch.from_numpy(symmetry.sites).to(device)
        element = torch.repeat_interleave(torch.arange(len(gan.system.counts)), torch.tensor(gan.system.counts))
        self.rank = (element * site.shape[1]).to(device)
        self.axes = torch.tensor([float(name in settings.translate) for name in "xyz"], device=device)
        self.known: Tensor | None = None
        if gan.distance is not None:
            with torch.no_grad():
                self.known = torch.cat([gan.view.distances(part) for part in torch.split(self.real, 256)])
        rates = {"generator": settings.g_lr, "coordinate": settings.coord_lr, "distance": settings.dist_lr}
        self.rates = {name: float(rate or 0) for name, rate in rates.items() if name in gan.modules}
        betas = (float(settings.b1 or 0), float(settings.b2 or 0))
        self.optimizers = {
            name: torch.optim.Adam(gan.modules[name].parameters(), rate, betas=betas)
            for name, rate in self.rates.items()
        }

    def learning_rates(self, epoch: int) -> dict[str, float]:
        """Of each network in `epoch`: ``gamma`` smaller after every ``step_size`` epochs (StepLR)."""
        assert self.gan.settings.gamma is not None
        assert self.gan.settings.step_size is not None
        factor = self.gan.settings.gamma ** (epoch // self.gan.settings.step_size)
        return {name: rate * factor for name, rate in self.rates.items()}

    def run_epoch(self, report: Callable[[int, dict[str, float]], None]) -> dict[str, float]:
        """Train on every structure once.

        Args:
            report: Called after each batch with its number and the losses so far.

        Returns:
            Means over the epoch, weighted with the batches' sizes, by the published column names.
        """
        for name, rate in self.learning_rates(self.epoch).items():
            self.optimizers[name].param_groups[0]["lr"] = rate
        settings = self.gan.settings
        order = torch.randperm(len(self.real), generator=self.rng)
        sums: dict[str, float] = {}
        weights: dict[str, int] = {}
        for number, rows in enumerate(torch.split(order, settings.batch_size)):
            losses = self._critic_step(rows) if len(rows) > 1 else {}
            assert settings.gen_int is not None
            if self.batches % settings.gen_int == 0:
                losses["cost_gen"] = self._generator_step(max(2, len(rows)))
            self.batches += 1
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value * len(rows)
                weights[name] = weights.get(name, 0) + len(rows)
            report(number, losses)
        self.epoch += 1
        columns = COLUMNS + (WITH_DISTANCES if self.gan.distance is not None else ())
        return {name: sums[name] / weights[name] if name in sums else float("nan") for name in columns}

    def latents(self, count: int) -> Tensor:
        """(count, latent_size) new normal numbers."""
        return self.gan.latents(count, self.rng).to(self.device)

    def _real_batch(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Fractions (b, N, 3) and distances of real structures, each turned by a random operation.

        Atoms are sorted by site within their element, as the generator gives them, so that the gradient penalty looks
        between structures whose atoms correspond.
        """
        rows = rows.to(self.device)
        fractions, site = self.real[rows], self.site[rows]
        if self.augmented:
            which = torch.randint(len(self.symmetry), (len(rows),), generator=self.rng).to(self.device)
            fractions = fractions @ self.rotations[which].transpose(1, 2) + self.translations[which][:, None]
            site = self.targets[which].gather(1, site)
        order = (site + self.rank).argsort(1)
        distances = None
        if self.known is not None:
            distances = self.known[rows].gather(1, order[..., None].expand(-1, -1, self.known.shape[-1]))
        return fractions.gather(1, order[..., None].expand(-1, -1, 3)), distances

    def _shift(self, count: int) -> Tensor:
        """(count, 1, 3) random translations in units of the cell, along the axes of the setting `translate`."""
        if not self.axes.any():
            return self.axes
        return torch.rand(count, 1, 3, generator=self.rng).to(self.device) * self.axes

    def _critic_step(self, rows: Tensor) -> dict[str, float]:
        gan, view = self.gan, self.gan.view
        real, real_distances = self._real_batch(rows)
        with torch.no_grad():
            fake = gan.generator(self.latents(len(rows)))
        shift = self._shift(len(rows))
        real_places, fake_places = view.places(real + shift), view.places(fake + shift)
        share = torch.rand(len(rows), 1, 1, generator=self.rng).to(self.device)
        losses = self._improve("coordinate", real_places, fake_places, view.between(real_places, fake_places, share))
        distance, cost, d_real, d_fake = losses
        row = {"distance_dis": distance, "cost_dis": cost, "D_real": d_real, "D_fake": d_fake}
        if gan.distance is not None:
            assert real_distances is not None
            with torch.no_grad():
                fake_distances = view.distances(fake)
            share = torch.rand(len(rows), 1, 1, generator=self.rng).to(self.device)
            between = real_distances + share * (fake_distances - real_distances)
            distance, cost, d_real, d_fake = self._improve("distance", real_distances, fake_distances, between)
            weight = gan.settings.weight_dist
            row["distance_dis"] += weight * distance
            row["cost_dis"] += weight * cost
            row |= {"D_dist_real": d_real, "D_dist_fake": d_fake}
        return row

    def _improve(self, name: str, real: Tensor, fake: Tensor, between: Tensor) -> tuple[float, float, float, float]:
        """One step of a critic: Wasserstein distance, cost with penalty, mean score of real and of fake tables."""
        critic, optimizer = self.gan.modules[name], self.optimizers[name]
        score_real, score_fake = critic(torch.cat([real, fake])).chunk(2)
        score_real, score_fake = score_real.mean(), score_fake.mean()
        cost = score_fake - score_real + PENALTY * gradient_penalty(critic, between)
        optimizer.zero_grad(set_to_none=True)
        cost.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        d_real, d_fake = score_real.item(), score_fake.item()
        return d_real - d_fake, cost.item(), d_real, d_fake

    def _generator_step(self, count: int) -> float:
        gan = self.gan
        fake = gan.generator(self.latents(count))
        critics = [critic.requires_grad_(False) for critic in (gan.coordinate, gan.distance) if critic is not None]
        score = gan.coordinate(gan.view.places(fake + self._shift(count))).mean()
        if gan.distance is not None:
            score = score + gan.settings.weight_dist * gan.distance(gan.view.distances(fake)).mean()
        optimizer = self.optimizers["generator"]
        optimizer.zero_grad(set_to_none=True)
        (-score).backward()
        optimizer.step()
        for critic in critics:
            critic.requires_grad_(True)
        self._average()
        return -float(score.item())

    @torch.no_grad()
    def _average(self) -> None:
        settings = self.gan.settings
        assert settings.ema is not None
        assert settings.gen_int is not None
        steps = self.batches // settings.gen_int + 1
        keep = min(settings.ema, steps / (WARM_UP + steps))
        source = self.gan.generator.state_dict()
        for name, tensor in self.gan.average.state_dict().items():
            if settings.ema and tensor.is_floating_point():
                tensor.lerp_(source[name], 1 - keep)
            else:
                tensor.copy_(source[name])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that training goes on from: tensors, and numbers as JSON."""
        known = {"matched": self.matched} | {f"symmetry.{name}": value for name, value in vars(self.symmetry).items()}
        tensors = self.gan.state() | {"rng": self.rng.get_state()}
        tensors |= {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in known.items()}
        for name, optimizer in self.optimizers.items():
            tensors |= optimizer_tensors(optimizer, f"optimizer.{name}")
        return tensors, {"epoch": self.epoch, "batches": self.batches}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.gan.load_state(tensors)
        self.rng.set_state(tensors["rng"].cpu())
        self.epoch, self.batches = int(meta["epoch"]), int(meta["batches"])
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, tensors, f"optimizer.{name}")


def gradient_penalty(critic: nn.Module, between: Tensor) -> Tensor:
    """Mean of (|gradient of the summed outputs| - 1)² at tables (B, N, K) between real and fake ones."""
    between = between.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return ((gradient.flatten(1).square().sum(1) + 1e-12).sqrt() - 1).square().mean()
