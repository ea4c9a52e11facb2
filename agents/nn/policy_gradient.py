"""The objective of policy gradients with clipped ratios, for what was drawn whole or decision by decision."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 20.0
"""Of the logarithm of a ratio, so that its exponential is finite."""

DUAL = 3.0
"""What is worse than the baseline counts at most this ratio (dual clip: Ye et al., arXiv 1912.09729): densities of
narrow peaks can grow a thousandfold in one step."""


def policy_loss(change: Tensor, advantage: Tensor, eps: float | None) -> Tensor:
    """() the clipped objective, negative; its gradient at no change is that of -mean(advantage x logp).

    Args:
        change: (B, R) logp - logp_old of R ratios for each draw.
        advantage: (B,).
        eps: How far from 1 a ratio counts; None for no clipping.
    """
    ratio, weight = torch.exp(change.clamp(max=LARGEST)), advantage[:, None]
    plain = ratio * weight
    if eps is None:
        return -plain.sum(1).mean()
    objective = torch.minimum(plain, ratio.clamp(1 - eps, 1 + eps) * weight)
    objective = torch.where(weight < 0, torch.maximum(objective, DUAL * weight), objective)
    return -objective.sum(1).mean()
