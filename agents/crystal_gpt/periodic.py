"""Densities on the circle: mixtures of von Mises or of wrapped normal distributions.

A spread s (radians) is a standard deviation near a narrow peak; the concentration of von Mises is ``1 / s²``.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Kind = Literal["von_mises", "wrapped_normal"]

WIDEST = 6.0
"""Radians, the largest spread; a uniform distribution for practical purposes."""

_IMAGES = 5
"""Turns to each side; what is left out of the widest distribution is 1e-8."""


class Mixture(NamedTuple):
    """K components for each of a batch of numbers.

    Attributes:
        logits: (..., K) weights before their normalisation.
        location: (..., K).
        spread: (..., K).
    """

    logits: Tensor
    location: Tensor
    spread: Tensor


def angle_between(a: Tensor, b: Tensor) -> Tensor:
    """``a - b`` in radians, wrapped to [-pi, pi)."""
    return torch.remainder(a - b + math.pi, 2 * math.pi) - math.pi


def von_mises(angle: Tensor, location: Tensor, spread: Tensor) -> Tensor:
    """Logarithm of the density of von Mises with concentration ``1 / spread²``; also of narrow peaks in float32."""
    concentration = spread.clamp(max=WIDEST) ** -2
    # I0 is e^k i0e(k), and k (cos d - 1) is -2 k sin²(d / 2) without the loss of digits
    exponent = -2 * concentration * torch.sin((angle - location) / 2) ** 2
    return exponent - torch.log(2 * math.pi * torch.special.i0e(concentration))


def wrapped_normal(angle: Tensor, location: Tensor, spread: Tensor) -> Tensor:
    """Logarithm of the density of a normal distribution wound around the circle."""
    spread = spread.clamp(max=WIDEST)[..., None]
    images = 2 * math.pi * torch.arange(-_IMAGES, _IMAGES + 1, device=angle.device, dtype=angle.dtype)
    distance = angle_between(angle, location)[..., None] + images
    return torch.logsumexp(-0.5 * (distance / spread) ** 2 - torch.log(spread * math.sqrt(2 * math.pi)), -1)


def log_density(kind: Kind, angle: Tensor, mixture: Mixture) -> Tensor:
    """(...) logarithm of the density of angles (...), per radian."""
    component = {"von_mises": von_mises, "wrapped_normal": wrapped_normal}[kind]
    each = component(angle[..., None], mixture.location, mixture.spread)
    return torch.logsumexp(torch.log_softmax(mixture.logits, -1) + each, -1)


def draw(kind: Kind, mixture: Mixture, temperature: float, rng: np.random.Generator) -> Tensor:
    """(...) angles in [0, 2 pi).

    At a temperature T weights are raised to ``1 / T`` and variances multiplied by T.
    """
    index = choose(mixture.logits / temperature, rng)[..., None]
    location = mixture.location.gather(-1, index)[..., 0].double().numpy(force=True)
    spread = mixture.spread.gather(-1, index)[..., 0].double().numpy(force=True)
    spread = np.minimum(spread, WIDEST) * math.sqrt(temperature)
    angle = rng.vonmises(location, spread**-2.0) if kind == "von_mises" else rng.normal(location, spread)
    return torch.as_tensor(np.remainder(angle, 2 * math.pi), dtype=mixture.location.dtype).to(mixture.location.device)


def choose(logits: Tensor, rng: np.random.Generator, top_p: float = 1.0) -> Tensor:
    """(...) one index for each row of logits (..., K), among the likeliest that together have `top_p`."""
    weights = torch.softmax(logits.double(), -1)
    if top_p < 1:
        ranked, order = weights.sort(-1, descending=True)
        ranked = torch.where(ranked.cumsum(-1) - ranked < top_p, ranked, 0.0)
        weights = torch.zeros_like(weights).scatter(-1, order, ranked)
    bounds = weights.cumsum(-1)
    uniform = torch.from_numpy(rng.random(tuple(weights.shape[:-1]))).to(weights.device)
    passed = bounds <= (uniform * bounds[..., -1])[..., None]
    return passed.sum(-1).clamp(max=weights.shape[-1] - 1)
