"""Regression, one epoch at a time, continued to the bit from its state, and the baselines that it has to beat."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, optim
from torch.nn import functional

from megen_gym.agents.crystal_gpt.encoding import ELEMENTS, Sites
from megen_gym.agents.crystal_gpt.regress_settings import Settings
from megen_gym.agents.crystal_gpt.regression import PropertyModel, Regressor
from megen_gym.agents.nn.epochs import EpochTrainer
from megen_gym.crystals import CrystalBatch
from megen_gym.structure import FloatArray

RIDGE = 1e-3
"""Penalty of the composition baseline, per crystal."""


class RegressionTrainer(EpochTrainer[Regressor]):
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
        values = torch.from_numpy(np.asarray(target, dtype=np.float64)).to(device)
        self.target = ((values - network.mean) / network.std).to(torch.float32)
        network.trunk.requires_grad_(False)
        for parameter in network.encoder():
            parameter.requires_grad_(not settings.freeze)
        behind = [*network.head.parameters(), *network.cell.parameters()]
        groups = [{"params": behind, "rate": 1.0}, {"params": network.encoder(), "rate": settings.trunk_lr}]
        optimizer = optim.AdamW(groups, settings.lr, (0.9, 0.98), weight_decay=settings.weight_decay)
        super().__init__(network, optimizer, torch.from_numpy(crystals.n_sites), settings)

    def run_epoch(self, report: Callable[[dict[str, float]], None]) -> dict[str, float]:
        """Train on every crystal once, or until the time is over.

        Args:
            report: Called after each batch with its loss.

        Returns:
            The loss, and mean absolute error and R2 of the predictions that the steps were made with.
        """
        network, losses, seen, made = self.model.network.train(), 0.0, [], []
        network.trunk.train(not self.settings.freeze)
        for rows in self.shuffled():
            begin = time.monotonic()
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate() * group["rate"]
            here = rows.to(self.target.device)
            output = network(self.sites[here].columns(0, int(self.sizes[rows].max())))
            loss = self._loss(output, self.target[here])
            self.descend(loss, self.settings.clip_grad)
            value = float(loss.detach())
            losses += value * len(rows)
            seen.append(self.target[here].cpu())
            made.append(output.detach().cpu())
            self.elapsed += time.monotonic() - begin
            report({"loss": value})
            if self.late:
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
