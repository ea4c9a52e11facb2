"""What trainers share that go through their data epoch by epoch and continue to the bit from their state."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn, optim

from megen_gym.agents.nn.optimizers import load_optimizer, optimizer_tensors

N = TypeVar("N", bound=nn.Module)

WINDOW = 16
"""Batches among which examples are sorted by size, so that little is computed on padding."""

WARM_UP = 50
"""Steps in which the learning rate grows to its value."""


class Budget(Protocol):
    """The settings that count here."""

    batchsize: int
    epochs: int
    max_time: float | None
    lr: float
    ema: float
    seed: int


@dataclass
class Span:
    """A budget, for settings that call it by other names."""

    batchsize: int
    epochs: int
    max_time: float | None
    lr: float
    ema: float
    seed: int


class EpochTrainer(Generic[N]):
    """Batches, learning rate, moving average of the weights, and state.

    Args:
        network: Trained in place.
        optimizer: Of its parameters.
        sizes: (B,) of the examples.
        budget: Settings.

    Attributes:
        average: Moving average of the network.
        epoch, step: Made so far.
        elapsed: Seconds of training so far.
    """

    def __init__(self, network: N, optimizer: optim.Optimizer, sizes: Tensor, budget: Budget) -> None:
        self.trained, self.optimizer, self.sizes, self.budget = network, optimizer, sizes, budget
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.rng = torch.Generator().manual_seed(budget.seed + 1)
        self.epoch = self.step = 0
        self.elapsed = 0.0

    @property
    def batches(self) -> int:
        """Steps of an epoch."""
        return max(1, -(-len(self.sizes) // self.budget.batchsize))

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return self.budget.max_time is not None and self.elapsed >= self.budget.max_time

    def learning_rate(self) -> float:
        """Of the next step: a cosine that ends where the epochs or the time end, whichever is first."""
        done = self.step / (self.budget.epochs * self.batches)
        if self.budget.max_time is not None:
            done = max(done, self.elapsed / self.budget.max_time)
        return self.warm() * (0.505 + 0.495 * math.cos(math.pi * min(done, 1.0)))

    def warm(self) -> float:
        """The learning rate of the settings, smaller in the first steps."""
        return self.budget.lr * min(1.0, (self.step + 1) / WARM_UP)

    def shuffled(self) -> list[Tensor]:
        """Rows of each batch of an epoch, of similar sizes within a batch."""
        order = torch.randperm(len(self.sizes), generator=self.rng)
        size = -(-len(order) // self.batches)
        rows: list[Tensor] = []
        for window in torch.split(order, WINDOW * size):
            rows += torch.split(window[self.sizes[window].argsort(stable=True)], size)
        return [rows[index] for index in torch.randperm(len(rows), generator=self.rng).tolist()]

    def descend(self, loss: Tensor, clip_grad: float) -> None:
        """One step down the gradient of `loss`, and the average after it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.trained.parameters(), clip_grad)
        self.optimizer.step()
        self.step += 1
        keep = min(self.budget.ema, self.step / (10 + self.step))
        with torch.no_grad():
            for mine, source in zip(self.average.parameters(), self.trained.parameters(), strict=True):
                mine.lerp_(source, 1 - keep)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that training goes on from: tensors, and numbers as JSON."""
        tensors = {f"network.{name}": value for name, value in self.trained.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer) | {"rng": self.rng.get_state(), "torch": torch.get_rng_state()}
        return tensors, {"epoch": self.epoch, "step": self.step, "elapsed": self.elapsed}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.trained.load_state_dict(part(tensors, "network."))
        self.average.load_state_dict(part(tensors, "average."))
        load_optimizer(self.optimizer, tensors)
        self.rng.set_state(tensors["rng"].cpu())
        torch.set_rng_state(tensors["torch"].cpu())
        self.epoch, self.step, self.elapsed = int(meta["epoch"]), int(meta["step"]), float(meta["elapsed"])


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
