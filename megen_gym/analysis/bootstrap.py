"""Confidence intervals by resampling whole structures."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from megen_gym.errors import InputError
from megen_gym.structure import FloatArray

REPS, CONFIDENCE, SEED = 1000, 0.95, 7
"""Dismai-Bench's choices, so that intervals can be compared with published ones."""


class Interval(NamedTuple):
    """A number and the interval that holds it with the chosen confidence."""

    value: float
    low: float
    high: float


def resampling_weights(count: int, reps: int = REPS, seed: int = SEED) -> FloatArray:
    """(reps, count) share of each structure in each resample with replacement; every row sums to 1.

    >>> resampling_weights(4, reps=2).sum(axis=1).tolist()
    [1.0, 1.0]
    """
    if count < 1 or reps < 1:
        raise InputError(f"cannot draw {reps} resamples of {count} structures; expected at least one of each")
    weights: FloatArray = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=reps) / count
    return weights


def pivotal(value: float, replicates: ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """The basic bootstrap interval [2t - q_high, 2t - q_low] of a number t from its values on resamples.

    It corrects the bias of the resamples; for a distance near zero, which noise can only enlarge, its lower end may be
    negative (Efron & Tibshirani, An Introduction to the Bootstrap, 13.4; Dismai-Bench, Digital Discovery 2024,
    doi 10.1039/d4dd00100a).

    >>> pivotal(1.0, [0.8, 1.0, 1.4], confidence=0.5)
    Interval(value=1.0, low=0.8, high=1.1)
    """
    if not 0 < confidence < 1:
        raise InputError(f"the confidence {confidence} is no probability; expected a number between 0 and 1, e.g. 0.95")
    known = np.asarray(replicates, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known) or not np.isfinite(value):
        return Interval(float(value), np.nan, np.nan)
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(value), float(2 * value - high), float(2 * value - low))


def bootstrap(
    samples: ArrayLike,
    statistic: Callable[[FloatArray], FloatArray] | None = None,
    reps: int = REPS,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
) -> Interval:
    """Interval of a number that depends on the structures through a mean.

    Args:
        samples: (B,) or (B, F), one row per structure.
        statistic: From means (K, F) to numbers (K,); by default the mean itself, of samples (B,).
        reps: Resamples.
        confidence: Of the interval.
        seed: Of the resamples.

    Raises:
        InputError: without structures or resamples, or for a confidence outside (0, 1).
    """
    rows = np.asarray(samples, dtype=np.float64)
    rows = rows.reshape(len(rows), -1)
    measure = statistic or (lambda means: means[:, 0])
    weights = resampling_weights(len(rows), reps, seed)
    return pivotal(float(measure(rows.mean(axis=0, keepdims=True))[0]), measure(weights @ rows), confidence)
