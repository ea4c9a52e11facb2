"""Maximum likelihood, one epoch at a time, continued to the bit from its state."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, optim

from megen_gym.agents.crystal_gpt.conditions import Given
from megen_gym.agents.crystal_gpt.encoding import Sites
from megen_gym.agents.crystal_gpt.model import Model
from megen_gym.agents.crystal_gpt.network import CrystalGPT, Parts
from megen_gym.agents.crystal_gpt.settings import Settings
from megen_gym.agents.nn.epochs import EpochTrainer
from megen_gym.crystals import CrystalBatch

PUBLISHED_FLOOR = 1e-3
"""Smallest spread under which likelihoods are reported, so that degenerate data cannot buy likelihood."""


class Trainer(EpochTrainer[CrystalGPT]):
    """Optimiser, moving average and data beside a model.

    Args:
        model: Trained in place.
        crystals: The training data.
        given: All that the model can be conditioned on, of each crystal.
        settings: Resolved.
    """

    def __init__(self, model: Model, crystals: CrystalBatch, given: Given | None, settings: Settings) -> None:
        self.model, self.settings, self.given = model, settings, given
        self.sites = Sites.of(crystals.padded(model.network.shape.n_max)).to(model.device)
        parameters = list(model.network.parameters())
        if settings.optimizer == "sgd":
            optimizer: optim.Optimizer = optim.SGD(parameters, settings.lr, momentum=0.9)
        elif settings.optimizer == "adam":
            optimizer = optim.Adam(parameters, settings.lr)
        else:
            optimizer = optim.AdamW(parameters, settings.lr, (0.9, 0.98), weight_decay=settings.weight_decay)
        super().__init__(model.network, optimizer, torch.from_numpy(crystals.n_sites), settings)

    def learning_rate(self) -> float:
        """Of the next step, as published where the setting `lr_decay` is above 0."""
        decay = self.settings.lr_decay
        return self.warm() / (1 + decay * self.step) if decay > 0 else super().learning_rate()

    def run_epoch(self, report: Callable[[dict[str, float]], None]) -> dict[str, float]:
        """Train on every crystal once, or until the time is over.

        Args:
            report: Called after each batch with its loss.

        Returns:
            Means over the epoch: nats per crystal in all and by part.
        """
        network = self.model.network.train()
        sums, seen = torch.zeros(5), 0
        for rows in self.shuffled():
            begin = time.monotonic()
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate()
            given = None
            if self.given is not None:
                given = self.given[rows.to(self.model.device)].dropped(self.settings.condition_dropout, self.rng)
            parts = network.log_prob(self.sites[rows.to(self.model.device)], given)
            self.descend(self.loss(parts), self.settings.clip_grad)
            values = torch.stack([-part.detach().float().mean() for part in (parts.total, *parts)]).cpu()
            sums, seen = sums + values * len(rows), seen + len(rows)
            self.elapsed += time.monotonic() - begin
            report({"loss": float(values[0])})
            if self.late:
                break
        self.epoch += 1
        network.eval()
        return dict(zip(("loss", "loss_w", "loss_a", "loss_xyz", "loss_l"), (sums / seen).tolist(), strict=True))

    def loss(self, parts: Parts) -> Tensor:
        """Negative log-likelihood with the weights of the settings."""
        s = self.settings
        return -(parts.xyz + s.lamb_a * parts.a + s.lamb_w * parts.w + s.lamb_l * parts.l).mean()

    def judge(self, crystals: CrystalBatch) -> dict[str, float]:
        """Nats per crystal of the moving average, unconditional, with all spreads at least 1e-3."""
        judged = Model(self.average)
        parts = judged.log_prob(crystals, None, PUBLISHED_FLOOR)
        return {"nll": -float(parts.total.mean())} | {
            f"nll_{name}": -float(part.mean()) for name, part in zip(Parts._fields, parts, strict=True)
        }
