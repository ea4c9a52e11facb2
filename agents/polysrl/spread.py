"""How far the structures of a composition spread: a Gaussian likelihood that does rank polymorphism.

The standard deviation that soft contrast learns does not follow the number of polymorphs. This head learns, from the
composition, the mean and the variance of a fixed description of its structures by maximum likelihood (Nix, Weigend,
ICNN 1994), and is calibrated on compositions that it was not fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from megen_gym.agents.polysrl.compositions import Compositions
from megen_gym.agents.polysrl.data import Pairs
from megen_gym.agents.polysrl.graphs import NEIGHBOURS, RADIUS, Graphs
from megen_gym.agents.polysrl.statistics import element_statistics
from megen_gym.errors import InputError
from megen_gym.runs import write_bytes
from megen_gym.structure import FloatArray

CENTRES, COMPONENTS = 41, 12
"""Gaussians of the distance, and principal components that are kept of them."""

SHORTEST = 2.5
"""To which the shortest distance of a structure is scaled: its size says nothing about its form."""

FLOOR = -4.0
"""Smallest logarithm of the variance, that of all structures being 0."""

HIDDEN, DROPOUT, WEIGHT_DECAY, RATE = 128, 0.2, 0.3, 3e-3
MEMBERS, STEPS, BATCH = 5, 600, 256
CALIBRATION = 0.15
"""Share of the compositions by which the scale is set."""

ALIKE = 1e-6
"""Spread of the description of all structures below which they are one and the same."""

_ARRAYS = ("shift", "scale", "middle", "axes", "factor")

ONE_SIGMA = 0.6827
"""Share of a normal distribution within one standard deviation."""

_FAR = 5.0
"""Standard deviations to which element statistics are cut."""


def description(graphs: Graphs) -> FloatArray:
    """(S, 41) how often each distance to the 12 nearest neighbours occurs, in units of the shortest one."""
    centres, structure = np.linspace(0, RADIUS, CENTRES), np.repeat(np.arange(len(graphs)), graphs.edges)
    shortest = np.full(len(graphs), np.inf)
    np.minimum.at(shortest, structure, graphs.distance)
    distance = graphs.distance * SHORTEST / shortest[structure]
    near = np.exp(-(((distance[:, None] - centres) / (RADIUS / (CENTRES - 1))) ** 2))
    weight = graphs.count * graphs.share[graphs.centre + graphs.offset] / NEIGHBOURS
    found = np.zeros((len(graphs), CENTRES))
    np.add.at(found, structure, near * weight[:, None])
    return found


class Ensemble(nn.Module):
    """M perceptrons side by side: (B, D) -> (M, B, out); the average of the members is over the first axis."""

    def __init__(self, members: int, size_in: int, hidden: int, size: int) -> None:
        super().__init__()
        pairs = [(size_in, hidden), (hidden, hidden), (hidden, size)]
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(members, a, b)) for a, b in pairs)
        self.biases = nn.ParameterList(nn.Parameter(torch.empty(members, 1, b)) for _, b in pairs)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            bound = weight.shape[1] ** -0.5
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        h = x.expand(len(self.weights[0]), -1, -1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if layer < len(self.weights) - 1:
                h = functional.dropout(functional.silu(h), DROPOUT, self.training)
        return h


@dataclass(eq=False)
class Spread:
    """A Gaussian for the structures of a composition, in the components of their description.

    Attributes:
        network: From standardised element statistics (B, 229) to K components and one logarithm of the variance.
        shift, scale: (229,) of the statistics.
        middle, axes: (41,) and (41, K) of the components; over all structures and components their variance is 1.
        factor: (K,) by which the standard deviation is multiplied for each component, after calibration.
    """

    network: Ensemble
    shift: FloatArray
    scale: FloatArray
    middle: FloatArray
    axes: FloatArray
    factor: FloatArray

    @classmethod
    def fit(cls, pairs: Pairs, seed: int = 0, steps: int = STEPS) -> Spread:
        """To crystals by composition; some of the compositions set the scale.

        Raises:
            InputError: for fewer than 20 compositions, none with two structures, or structures that are all alike.
        """
        if len(pairs.compositions) < 20 or pairs.counts.max() < 2:
            raise InputError(
                f"{len(pairs.compositions)} compositions with at most {pairs.counts.max()} structures do not tell "
                "their spread; give 20, some with several structures, or --spread false"
            )
        fitted, held = pairs.split(CALIBRATION, seed)
        raw = description(fitted.graphs)
        middle = raw.mean(0)
        axes = np.linalg.svd(raw - middle, full_matrices=False)[2][:COMPONENTS].T
        size = ((raw - middle) @ axes).std()
        if size < ALIKE:
            raise InputError(
                "all structures look alike, which does not tell their spread; give others, or --spread false"
            )
        axes = axes / size
        statistics = _statistics(fitted.compositions)
        shift, scale = statistics.mean(0), statistics.std(0) + 1e-6
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Ensemble(MEMBERS, len(shift), HIDDEN, axes.shape[1] + 1)
            found = cls(network, shift, scale, middle, axes, np.ones(axes.shape[1]))
            found._train(fitted, steps)
        residual, std = found.residuals(held)
        found.factor = np.quantile(np.abs(residual) / std, ONE_SIGMA, axis=0)
        return found

    def predict(self, compositions: Compositions) -> tuple[FloatArray, FloatArray]:
        """(B, K) mean components and (B, K) calibrated standard deviations."""
        with torch.no_grad():
            mean, log_variance = self._heads(self._inputs(compositions))
        variance = log_variance.exp().mean(0)
        return mean.mean(0).double().numpy(), variance.sqrt().double().numpy()[:, None] * self.factor

    def std(self, compositions: Compositions) -> FloatArray:
        """(B,) standard deviation, in units of that of all structures of all compositions."""
        return np.asarray(np.sqrt((self.predict(compositions)[1] ** 2).mean(1)))

    def residuals(self, pairs: Pairs) -> tuple[FloatArray, FloatArray]:
        """(S, K) true less mean components of crystals, and (S, K) their predicted standard deviations."""
        mean, std = self.predict(pairs.compositions)
        found = (description(pairs.graphs) - self.middle) @ self.axes
        return found - mean[pairs.index], std[pairs.index]

    def describe(self) -> dict[str, Tensor]:
        """Everything as tensors."""
        tensors = dict(self.network.state_dict())
        tensors |= {name: torch.from_numpy(getattr(self, name)) for name in _ARRAYS}
        return tensors

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor]) -> Spread:
        """The inverse of :meth:`describe`."""
        weights = {name: value for name, value in tensors.items() if name not in _ARRAYS}
        members, size_in, hidden = weights["weights.0"].shape
        network = Ensemble(members, size_in, hidden, weights["weights.2"].shape[2])
        network.load_state_dict(weights)
        return cls(network.eval(), *(tensors[name].numpy() for name in _ARRAYS))

    def save(self, path: Path) -> None:
        """As safetensors."""
        from safetensors.torch import save

        write_bytes(path, save({name: value.contiguous() for name, value in self.describe().items()}))

    @classmethod
    def load(cls, path: Path) -> Spread:
        """What :meth:`save` wrote."""
        from safetensors.torch import load

        return cls.restore(load(path.read_bytes()))

    def _train(self, pairs: Pairs, steps: int) -> None:
        inputs = self._inputs(pairs.compositions)[torch.from_numpy(pairs.index)]
        target = torch.from_numpy((description(pairs.graphs) - self.middle) @ self.axes).float()
        optimizer = torch.optim.AdamW(self.network.parameters(), RATE, weight_decay=WEIGHT_DECAY)
        self.network.train()
        for _ in range(steps):
            rows = torch.randint(len(inputs), (min(BATCH, len(inputs)),))
            mean, log_variance = self._heads(inputs[rows])
            square = ((target[rows] - mean) ** 2).mean(-1)
            loss = 0.5 * (log_variance + square * torch.exp(-log_variance)).mean(1).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        self.network.eval()

    def _heads(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(M, B, K) means and (M, B) logarithms of the variance, of each member."""
        output: Tensor = self.network(inputs)
        return output[..., :-1], FLOOR + functional.softplus(output[..., -1] - FLOOR)

    def _inputs(self, compositions: Compositions) -> Tensor:
        statistics = (_statistics(compositions) - self.shift) / self.scale
        return torch.from_numpy(np.clip(statistics, -_FAR, _FAR)).float()


def _statistics(compositions: Compositions) -> FloatArray:
    return element_statistics(compositions.numbers, compositions.fractions)
