"""Preference tuning: from pairs of a better and a worse crystal, without the reward itself.

Direct preference optimisation (Rafailov et al., NeurIPS 2023, arXiv 2305.18290) with label smoothing (cDPO), or IPO's
squared loss (Azar et al., AISTATS 2024, arXiv 2310.12036).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from megen_gym.agents.crystal_gpt.model import Model
from megen_gym.crystals import CrystalBatch
from megen_gym.errors import InputError
from megen_gym.structure import FloatArray, IntArray


class Loss(NamedTuple):
    """Of P pairs.

    Attributes:
        value: () what is made small.
        margin: (P,) how much more the likelihood of the better crystal has grown than that of the worse one, nats.
    """

    value: Tensor
    margin: Tensor


def preference_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    ipo: bool = False,
) -> Loss:
    """The loss of pairs whose logarithms of likelihoods are given.

    With the margin m = (chosen - reference_chosen) - (rejected - reference_rejected), DPO is
    -(1 - s) log sigmoid(beta m) - s log sigmoid(-beta m) and IPO (m - 1 / (2 beta))², averaged over the pairs; gamma
    times the mean of -chosen is added.

    Args:
        chosen, rejected: (P,) by the model that is tuned, nats.
        reference_chosen, reference_rejected: (P,) by the model that it started from.
        beta: How near it is to stay.
        label_smoothing: s, chance that a pair is the wrong way round.
        gamma: Weight of the likelihood of the better crystals.
        ipo: Squared loss.
    """
    margin = (chosen - reference_chosen) - (rejected - reference_rejected)
    if ipo:
        each = (margin - 1 / (2 * beta)) ** 2
    else:
        right, wrong = functional.logsigmoid(beta * margin), functional.logsigmoid(-beta * margin)
        each = -(1 - label_smoothing) * right - label_smoothing * wrong
    return Loss(each.mean() - gamma * chosen.mean(), margin.detach())


def ranked_pairs(group: IntArray, value: FloatArray) -> tuple[IntArray, IntArray]:
    """(P,) rows of better crystals and (P,) of worse ones: the best half of each space group against its worst half.

    The best one is paired with the best of the worse half, and so on; crystals of equal value make no pair.

    Args:
        group: (B,) space group numbers.
        value: (B,) the larger the better.

    >>> better, worse = ranked_pairs(np.array([1, 1, 1, 1, 2]), np.array([0.0, 3.0, 1.0, 2.0, 9.0]))
    >>> better.tolist(), worse.tolist()
    ([1, 3], [2, 0])
    """
    better, worse = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for number in np.unique(group):
        rows = np.flatnonzero(group == number)
        rows = rows[np.argsort(-value[rows], kind="stable")]
        half = len(rows) // 2
        first, last = rows[:half], rows[len(rows) - half :]
        differ = value[first] > value[last]
        better.append(first[differ])
        worse.append(last[differ])
    return np.concatenate(better), np.concatenate(worse)


def read_pairs(chosen: str, rejected: str, model: Model, symprec: float, cache: bool, progress: bool) -> CrystalBatch:
    """The crystals of both files in one batch: P better ones, then P worse ones.

    Raises:
        InputError: for a file that cannot be read in whole, unequal numbers, or crystals that the model cannot have.
    """
    from megen_gym.agents.crystal_gpt.data import load

    batches = []
    for name in (chosen, rejected):
        data = load(name, symprec, cache, progress)
        if data.skipped:
            raise InputError(
                f"{name} has {len(data.skipped)} crystals that cannot be used, the first one: {data.skipped[0]}; "
                "pairs go by row, so remove them and their partners from both files"
            )
        batches.append(model.check(data.crystals))
    if len(batches[0]) != len(batches[1]):
        raise InputError(
            f"{chosen} has {len(batches[0])} crystals and {rejected} has {len(batches[1])}; pairs go by row, give "
            "equal numbers"
        )
    return CrystalBatch.join(batches)


def batches_of(count: int, size: int, rng: np.random.Generator) -> list[Tensor]:
    """Shuffled rows of `count` pairs, up to `size` at a time."""
    return list(torch.split(torch.from_numpy(rng.permutation(count)), size))
