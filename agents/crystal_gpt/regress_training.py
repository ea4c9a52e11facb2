"""Regression, one epoch at a time, continued to the bit from its state, and the baselines that it has to beat."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, optim
from torch.nn import functional

from megen_gym.agents.crystal_gpt.encoding import Sites
from megen_gym.agents.crystal_gpt.regress_settings import Settings
from megen_gym.agents.crystal_gpt.regression import PropertyModel
from megen_gym.agents.crystal_gpt.training import WARM_UP, WINDOW
from megen_gym.agents.nn.optimizers import load_optimizer, optimizer_tensors
from megen_gym.crystals import CrystalBatch
from megen_gym.structure import FloatArray

ELEMENTS = 119

RIDGE = 1e-3
"""Penalty of the composition baseline, per crystal."""


class RegressionTrainer:
    """Optimiser, moving average and data beside a model.

    Args:
        model: Trained in place, except for its transformer where that is frozen.
        crystals: The training data.
        target: (B,) the property of each.
        settings: Checked.
    """

    def __init__(self, model: PropertyModel, crystals: CrystalBatch, target: FloatArray, settings: Settings) -> None:
        self.model, self.settings, network = model, settings, model.network
        device = network.mean.device
        self.sites = Sites.of(crystals.ordered().padded(model.n_max)).to(device)
        self.n_sites = torch.from_numpy(crystals.n_sites)
        values = torch.from_numpy(np.asarray(target, dtype=np.float64)).to(device)
        self.target = ((values - network.mean) / network.std).to(torch.float32)
        network.trunk.requires_grad_(False)
        for parameter in network.encoder():
            parameter.requires_grad_(not settings.freeze)
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.rng = torch.Generator().manual_seed(settings.seed + 1)
        self.epoch = self.step = 0
        self.elapsed = 0.0
        behind = [*network.head.parameters(), *network.cell.parameters()]
        groups = [{"params": behind, "rate": 1.0}, {"params": network.encoder(), "rate": settings.trunk_lr}]
        self.optimizer = optim.AdamW(groups, settings.lr, (0.9, 0.98), weight_decay=settings.weight_decay)

    @property
    def batches(self) -> int:
        """Steps of an epoch."""
        return max(1, -(-len(self.sites) // self.settings.batchsize))

    def learning_rate(self) -> float:
        """Of the next step; the cosine ends where the epochs or the time end, whichever is first."""
        settings = self.settings
        done = self.step / (settings.epochs * self.batches)
        if settings.max_time is not None:
            done = max(done, self.elapsed / settings.max_time)
        rate = settings.lr * min(1.0, (self.step + 1) / WARM_UP)
        return rate * (0.505 + 0.495 * math.cos(math.pi * min(done, 1.0)))

    def run_epoch(self, report: Callable[[dict[str, float]], None]) -> dict[str, float]:
        """Train on every crystal once, or until the time is over.

        Args:
            report: Called after each batch with its loss.

        Returns:
            The loss, and mean absolute error and R2 of the predictions that the steps were made with.
        """
        network, losses, seen, made = self.model.network.train(), 0.0, [], []
        network.trunk.train(not self.settings.freeze)
        for rows in self._batches():
            begin = time.monotonic()
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate() * group["rate"]
            here = rows.to(self.target.device)
            width = int(self.n_sites[rows].max())
            output = network(_narrow(self.sites[here], width))
            loss = self._loss(output, self.target[here])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.settings.clip_grad)
            self.optimizer.step()
            self.step += 1
            self._average()
            value = float(loss.detach())
            losses += value * len(rows)
            seen.append(self.target[here].cpu())
            made.append(output.detach().cpu())
            self.elapsed += time.monotonic() - begin
            report({"loss": value})
            if self.settings.max_time is not None and self.elapsed >= self.settings.max_time:
                break
        self.epoch += 1
        network.eval()
        true, guess = torch.cat(seen).double().numpy(), torch.cat(made).double().numpy()
        mae, r2 = scores(true, guess)
        return {"loss": losses / len(true), "train_mae": mae * float(network.std), "train_r2": r2}

    def judged(self) -> PropertyModel:
        """The model with the moving average of the weights."""
        return PropertyModel(self.average, self.model.name, self.model.elements, self.model.symprec)

    def _loss(self, output: Tensor, target: Tensor) -> Tensor:
        return (functional.huber_loss if self.settings.loss == "huber" else functional.mse_loss)(output, target)

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


def scores(true: FloatArray, guess: FloatArray) -> tuple[float, float]:
    """Mean absolute error, and R2 = 1 - residual / total sum of squares (NaN where the values do not vary).

    >>> scores(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0]))
    (0.3333333333333333, 0.5)
    """
    total = float(((true - true.mean()) ** 2).sum())
    r2 = 1 - float(((true - guess) ** 2).sum()) / total if total > 0 else float("nan")
    return float(np.abs(true - guess).mean()), r2


def fractions(crystals: CrystalBatch) -> FloatArray:
    """(B, 119) share of each element among the atoms, by atomic number."""
    share = np.zeros((len(crystals), ELEMENTS))
    np.add.at(share, (np.arange(len(crystals))[:, None], crystals.elements), crystals.multiplicity)
    return np.asarray(share / share.sum(1, keepdims=True))


def baselines(crystals: CrystalBatch, target: FloatArray, held_out: CrystalBatch) -> tuple[FloatArray, FloatArray]:
    """Predictions (H,) for `held_out` without a network: the mean, and least squares on the shares of the elements.

    Args:
        crystals: The training data.
        target: (B,) their property.
        held_out: H crystals; an element that the training data do not have counts as average.
    """
    mean, share = float(target.mean()), fractions(crystals)
    matrix = share.T @ share + RIDGE * len(crystals) / ELEMENTS * np.eye(ELEMENTS)
    weights = np.linalg.solve(matrix, share.T @ (target - mean))
    return np.full(len(held_out), mean), mean + fractions(held_out) @ weights


def _narrow(sites: Sites, width: int) -> Sites:
    return Sites(
        sites.group, sites.letters[:, :width], sites.elements[:, :width], sites.angles[:, :width], sites.lattice
    )
