"""What embeddings are trained by: soft contrast between distributions and structures, and the baselines' losses."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from megen_gym.agents.polysrl.network import Distribution

TINY = 1e-6
"""Added to squared distances, as published."""


class Contrast(NamedTuple):
    """The soft contrastive loss and its two parts (), and distances (N, J, S) of samples to structures."""

    total: Tensor
    positive: Tensor
    negative: Tensor
    distance: Tensor


def draw(distribution: Distribution, count: int, scale: float = 1.0) -> Tensor:
    """(N, J, H) samples mean + scale x std x noise, by torch's global random state."""
    mean, log_std = distribution
    noise = torch.randn(len(mean), count, mean.shape[1], dtype=mean.dtype, device=mean.device)
    return mean[:, None] + scale * log_std.exp()[:, None] * noise


def distances(samples: Tensor, structures: Tensor) -> Tensor:
    """(N, J, S) sqrt(|z - s|² + 1e-6) between samples (N, J, H) and structures (S, H), by one matrix product."""
    flat = samples.flatten(0, 1)
    square = (flat**2).sum(1)[:, None] + (structures**2).sum(1) - 2 * flat @ structures.T
    return torch.sqrt(square.clamp_min(0) + TINY).view(*samples.shape[:2], -1)


def soft_contrastive(
    samples: Tensor, structures: Tensor, same: Tensor, scale: Tensor, shift: Tensor, balance: float | Tensor = 1.0
) -> Contrast:
    """Negative log-probabilities that pairs belong together, or do not, summed over all pairs.

    p(together) = (1/J) sum_j sigmoid(2 (shift - scale d_j)) (PCME: Chun et al., CVPR 2021; PolySRL, eq. 4).

    Args:
        samples: (N, J, H) of the compositions.
        structures: (S, H).
        same: (N, S) whether a structure is of the composition.
        scale, shift: () c and d of the paper.
        balance: Weight of the pairs that belong together.
    """
    distance = distances(samples, structures)
    logit = 2 * (shift - scale * distance)
    log_count = math.log(samples.shape[1])
    together = log_count - torch.logsumexp(functional.logsigmoid(logit), 1)
    apart = log_count - torch.logsumexp(functional.logsigmoid(-logit), 1)
    positive, negative = (together * same).sum(), (apart * ~same).sum()
    return Contrast(balance * positive + negative, positive, negative, distance)


def kl_to_normal(distribution: Distribution) -> Tensor:
    """() nats between the distributions and the standard normal one, summed."""
    mean, log_std = distribution
    return 0.5 * (torch.exp(2 * log_std) + mean**2 - 1 - 2 * log_std).sum()


def kl_published(samples: Tensor, log_std: Tensor) -> Tensor:
    """() the published term: of the mean of the samples (N, J, H), and with `log_std` taken for a log variance."""
    return -0.5 * (1 + log_std - samples.mean(1) ** 2 - log_std.exp()).sum()


def uniformity(points: Tensor) -> Tensor:
    """() log mean exp(-2 d²) over pairs of points (P, H) (Wang, Isola, ICML 2020); small where they spread evenly."""
    return torch.log(torch.exp(-2 * torch.pdist(points) ** 2).mean())


def info_nce(left: Tensor, right: Tensor, same: Tensor, temperature: float) -> Tensor:
    """() InfoNCE of embeddings (N, H) and (S, H) of length one; several partners of a row share its probability.

    -mean_i log sum_{s of i} exp(l_i r_s / t) / sum_s exp(l_i r_s / t) (Stärk et al., ICML 2022; published with one
    partner each, which takes polymorphs for strangers).
    """
    score = left @ right.T / temperature
    own = torch.logsumexp(score.masked_fill(~same, -torch.inf), 1)
    return (torch.logsumexp(score, 1) - own).mean()
