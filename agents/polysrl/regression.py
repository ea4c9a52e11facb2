"""Properties of compositions: a head behind a composition network, alone or with the network, and its uncertainty."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from megen_gym.agents.nn.options import check_bounds
from megen_gym.agents.polysrl.compositions import Compositions
from megen_gym.agents.polysrl.folds import Scaler, Scaling
from megen_gym.agents.polysrl.network import CompositionNetwork, Shape
from megen_gym.agents.polysrl.spread import ONE_SIGMA
from megen_gym.agents.polysrl.training import ROWS, tensors_of
from megen_gym.errors import InputError
from megen_gym.structure import FloatArray, IntArray

WARM_UP = 50
"""Steps in which the learning rate grows to its value."""

AVERAGE = 0.99
"""Decay per step of the moving average of the weights that predicts."""

CALIBRATION = 0.1
"""Share of the compositions that sets the scale of the uncertainty: one standard deviation covers 68 % of them."""

MOST = 200
"""Compositions that are kept for it at most."""

FEW = 20
"""With so few calibrated rows the factor counts half, as its logarithm."""

_DOUBT = 8.0

_STEPS, _EPOCHS = 4000, (40, 300)


@dataclass(frozen=True)
class Fit:
    """How a property is learned.

    Attributes:
        freeze: Leave the composition network as it is.
        members: Networks that are averaged.
        epochs: Passes through the data; by default as many as make 4,000 steps, but 40 to 300.
        batch_size, lr, weight_decay, dropout: Of each.
        target_scale: See :class:`.folds.Scaler`.
        shape: Of a new composition network, where none is given.
        seed: Of everything that is random.

    Raises:
        InputError: for a value out of range.
    """

    freeze: bool = False
    members: int = 3
    epochs: int | None = None
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    target_scale: Scaling = "standard"
    shape: Shape = field(default_factory=lambda: Shape("combined", "GIN", 3, 128))
    seed: int = 0

    def __post_init__(self) -> None:
        check_bounds(self, {1: "members epochs batch_size"})
        if not self.lr > 0 or self.weight_decay < 0 or not 0 <= self.dropout < 1:
            raise InputError(
                f"lr {self.lr}, weight_decay {self.weight_decay} and dropout {self.dropout} cannot work; give lr above "
                "0, weight_decay of at least 0 and dropout from 0 up to, but not, 1"
            )

    def passes(self, size: int) -> int:
        """Epochs for `size` examples."""
        if self.epochs is not None:
            return self.epochs
        return int(np.clip(round(_STEPS * self.batch_size / size), *_EPOCHS))


class Property(nn.Module):
    """A composition network, a perceptron (H - 128 - 128 - 1), and another for the expected error.

    The second one learns without moving the network: a likelihood that did would spend it on the easy examples.
    """

    def __init__(self, network: CompositionNetwork, dropout: float, freeze: bool) -> None:
        super().__init__()
        self.network, self.freeze = network, freeze
        self.scale = math.sqrt(network.shape.hidden_dim)
        size = network.shape.hidden_dim
        self.head, self.doubt = (
            nn.Sequential(
                nn.Dropout(dropout), nn.Linear(size, 128), nn.SiLU(), nn.Dropout(dropout), nn.Linear(128, 128),
                nn.SiLU(), nn.Linear(128, 1),
            )
            for _ in range(2)
        )  # fmt: skip
        network.requires_grad_(not freeze)

    def embedded(self, numbers: Tensor, amounts: Tensor) -> Tensor:
        """(B, H) what the head sees; before it is normalised where the network learns too."""
        if self.freeze:
            mean: Tensor = self.network(numbers, amounts).mean
            return mean * self.scale
        return self.network.summary(numbers, amounts)

    def forward(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) values, and (B,) logarithms of the mean absolute error that is expected."""
        return self.head(embedded)[:, 0], self.doubt(embedded.detach())[:, 0].clamp(-_DOUBT, _DOUBT)


@dataclass(eq=False)
class PropertyModel:
    """Several networks, the scale of the property, and the calibration of their uncertainty.

    Attributes:
        members: Networks.
        scaler: Of the property, from the training data.
        factor: By which the standard deviation is multiplied after calibration.
        held: Rows that no member was trained on, and what is predicted of them, in the unit of the property.
    """

    members: list[Property]
    scaler: Scaler
    factor: float = 1.0
    held: tuple[IntArray, FloatArray] | None = None

    @classmethod
    def fit(
        cls,
        compositions: Compositions,
        target: FloatArray,
        options: Fit,
        network: CompositionNetwork | None = None,
        report: Callable[[], None] = lambda: None,
    ) -> PropertyModel:
        """Train on compositions with a property (B,) each.

        A tenth of the compositions, at most 200, is kept for calibration; rows of one composition stay together.

        Args:
            compositions: B of them.
            target: (B,).
            options: See there.
            network: To start from, or to keep where it is frozen; new ones by default.
            report: Called after each epoch of each member.

        Raises:
            InputError: for fewer than 10 compositions, or targets that cannot be used.
        """
        if len(compositions) < 10 or len(target) != len(compositions):
            raise InputError(f"{len(compositions)} formulas with {len(target)} targets; give at least 10 of both")
        scaler = Scaler.fit(target, options.target_scale)
        scaled = torch.from_numpy(scaler.transform(target)).float()
        found, groups = cls([], scaler), compositions.unique()[1]
        order = np.random.default_rng([options.seed, 0]).permutation(int(groups.max()) + 1)
        away = np.isin(groups, order[: kept_of(len(order))])
        held, rest = np.flatnonzero(away), np.flatnonzero(~away)
        for member in range(options.members):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(np.random.default_rng([options.seed, 1, member]).integers(2**31)))
                start = CompositionNetwork(options.shape) if network is None else copy.deepcopy(network)
                model = Property(start, options.dropout, options.freeze)
                found.members.append(_trained(model, compositions[rest], scaled[rest], options, report))
        mean, std = found._scaled(compositions[held])
        ratio = np.abs(scaled[held].double().numpy() - mean) / std
        found.factor = max(float(np.quantile(ratio, ONE_SIGMA)), 1e-3) ** (len(held) / (len(held) + FEW))
        found.held = held, scaler.inverse(mean)
        return found

    def predict(self, compositions: Compositions) -> tuple[FloatArray, FloatArray]:
        """(B,) values and standard deviations, in the units of the property.

        The variance is that of the members' errors and of their disagreement, calibrated; for a property learned by its
        logarithm it is that of a small error.
        """
        mean, std = self._scaled(compositions)
        value = self.scaler.inverse(mean)
        return value, self.factor * std * self.scaler.scale * (value if self.scaler.kind == "log" else 1.0)

    def _scaled(self, compositions: Compositions) -> tuple[FloatArray, FloatArray]:
        """(B,) values and standard deviations before calibration, as the networks give them."""
        parts = np.array([_outputs(model, compositions) for model in self.members])
        return parts[:, 0].mean(0), np.sqrt((parts[:, 1] ** 2).mean(0) + parts[:, 0].var(0))


def kept_of(size: int) -> int:
    """How many of so many compositions are kept for calibration."""
    return min(max(1, round(CALIBRATION * size)), MOST)


def _trained(
    model: Property, compositions: Compositions, target: Tensor, options: Fit, report: Callable[[], None]
) -> Property:
    """The moving average of the weights at the end of training."""
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    doubts = set(model.doubt.parameters())
    values = [parameter for parameter in learned if parameter not in doubts]
    optimizer = torch.optim.AdamW(learned, options.lr, weight_decay=options.weight_decay, fused=True)
    average = copy.deepcopy(model).eval()
    numbers, amounts = tensors_of(compositions, "cpu")
    widths = (numbers > 0).sum(1)
    ready = _embedded(model, compositions) if options.freeze else None
    size = min(options.batch_size, len(target))
    epochs = options.passes(len(target))
    total, step = epochs * (len(target) // size), 0
    for _ in range(epochs):
        model.train()
        for rows in torch.split(torch.randperm(len(target)), size)[: len(target) // size]:
            for group in optimizer.param_groups:
                decay = 0.505 + 0.495 * math.cos(math.pi * step / total)
                group["lr"] = options.lr * min(1.0, (step + 1) / WARM_UP) * decay
            if ready is None:
                wide = int(widths[rows].max())
                inputs = model.embedded(numbers[rows, :wide], amounts[rows, :wide])
            else:
                inputs = ready[rows]
            value, log_error = model(inputs)
            error = (value - target[rows]).abs()
            loss = (error + error.detach() * torch.exp(-log_error) + log_error).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(values, 2.0)
            nn.utils.clip_grad_norm_(model.doubt.parameters(), 2.0)
            optimizer.step()
            step += 1
            with torch.no_grad():
                for mine, source in zip(average.parameters(), model.parameters(), strict=True):
                    mine.lerp_(source, 1 - min(AVERAGE, step / (10 + step)))
        report()
    return average


@torch.no_grad()
def _embedded(model: Property, compositions: Compositions) -> Tensor:
    rows = torch.split(torch.arange(len(compositions)), ROWS)
    return torch.cat([model.embedded(*tensors_of(compositions[part.numpy()], "cpu")) for part in rows])


@torch.no_grad()
def _outputs(model: Property, compositions: Compositions) -> tuple[FloatArray, FloatArray]:
    """(B,) values and standard deviations of a member, scaled; the latter from the mean absolute error of a Laplace."""
    value, log_error = model.eval()(_embedded(model, compositions))
    return value.double().numpy(), math.sqrt(2) * log_error.exp().double().numpy()
