"""Maximum likelihood, one epoch at a time, continued to the bit from its state."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, optim

from megen_gym.agents.crystal_gpt.conditions import Given
from megen_gym.agents.crystal_gpt.encoding import Sites
from megen_gym.agents.crystal_gpt.model import Model
from megen_gym.agents.crystal_gpt.network import Parts
from megen_gym.agents.crystal_gpt.settings import Settings
from megen_gym.agents.nn.optimizers import load_optimizer, optimizer_tensors
from megen_gym.crystals import CrystalBatch

WINDOW = 16
"""Batches among which crystals are sorted by their number of sites, so that little is computed on padding."""

WARM_UP = 50
"""Steps in which the learning rate grows to its value."""

PUBLISHED_FLOOR = 1e-3
"""Smallest spread under which likelihoods are reported, so that degenerate data cannot buy likelihood."""


class Trainer:
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
        self.n_sites = torch.from_numpy(crystals.n_sites)
        self.average = copy.deepcopy(model.network).eval().requires_grad_(False)
        self.rng = torch.Generator().manual_seed(settings.seed + 1)
        self.epoch = self.step = 0
        self.elapsed = 0.0
        parameters = list(model.network.parameters())
        if settings.optimizer == "sgd":
            self.optimizer: optim.Optimizer = optim.SGD(parameters, settings.lr, momentum=0.9)
        elif settings.optimizer == "adam":
            self.optimizer = optim.Adam(parameters, settings.lr)
        else:
            self.optimizer = optim.AdamW(parameters, settings.lr, (0.9, 0.98), weight_decay=settings.weight_decay)

    @property
    def batches(self) -> int:
        """Steps of an epoch."""
        return max(1, -(-len(self.sites) // self.settings.batchsize))

    def learning_rate(self) -> float:
        """Of the next step; the cosine ends where the epochs or the time end, whichever is first."""
        settings = self.settings
        rate = settings.lr * min(1.0, (self.step + 1) / WARM_UP)
        if settings.lr_decay > 0:
            return rate / (1 + settings.lr_decay * self.step)
        done = self.step / (settings.epochs * self.batches)
        if settings.max_time is not None:
            done = max(done, self.elapsed / settings.max_time)
        return rate * (0.505 + 0.495 * math.cos(math.pi * min(done, 1.0)))

    def run_epoch(self, report: Callable[[dict[str, float]], None]) -> dict[str, float]:
        """Train on every crystal once, or until the time is over.

        Args:
            report: Called after each batch with its loss.

        Returns:
            Means over the epoch: nats per crystal in all and by part.
        """
        network = self.model.network.train()
        sums, seen = torch.zeros(5), 0
        for rows in self._batches():
            begin = time.monotonic()
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate()
            given = None
            if self.given is not None:
                given = self.given[rows.to(self.model.device)].dropped(self.settings.condition_dropout, self.rng)
            parts = network.log_prob(self.sites[rows.to(self.model.device)], given)
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(parts).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.settings.clip_grad)
            self.optimizer.step()
            self.step += 1
            self._average()
            values = torch.stack([-part.detach().float().mean() for part in (parts.total, *parts)]).cpu()
            sums, seen = sums + values * len(rows), seen + len(rows)
            self.elapsed += time.monotonic() - begin
            report({"nll": float(values[0])})
            if self.settings.max_time is not None and self.elapsed >= self.settings.max_time:
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

    def _batches(self) -> list[Tensor]:
        """Shuffled rows, of similar numbers of sites within a batch."""
        order = torch.randperm(len(self.sites), generator=self.rng)
        size = -(-len(order) // self.batches)
        rows: list[Tensor] = []
        for window in torch.split(order, WINDOW * size):
            rows += torch.split(window[self.n_sites[window].argsort(stable=True)], size)
        return [rows[index] for index in torch.randperm(len(rows), generator=self.rng).tolist()]

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.settings.ema, self.step / (10 + self.step))
        for mine, source in zip(self.average.parameters(), self.model.network.parameters(), strict=True):
            mine.lerp_(source, 1 - keep)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that training goes on from: tensors, and numbers as JSON."""
        tensors = {f"network.{name}": value for name, value in self.model.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer) | {"rng": self.rng.get_state(), "torch": torch.get_rng_state()}
        return tensors, {"epoch": self.epoch, "step": self.step, "elapsed": self.elapsed}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        for prefix, network in (("network.", self.model.network), ("average.", self.average)):
            network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        load_optimizer(self.optimizer, tensors)
        self.rng.set_state(tensors["rng"].cpu())
        torch.set_rng_state(tensors["torch"].cpu())
        self.epoch, self.step, self.elapsed = int(meta["epoch"]), int(meta["step"]), float(meta["elapsed"])
