"""Short lattice vectors: the Minkowski-reduced bases of many lattices at once."""

from __future__ import annotations

import numpy as np

from megen_gym.structure import FloatArray, IntArray

SHORTER = 1e-10
"""Part of a squared length that a step must save; less is rounding."""

_SIGNS: IntArray = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]])


def reduced(vectors: FloatArray) -> FloatArray:
    """(B, P, 3) Å, shortest basis vectors of the lattices of `vectors` (B, P, 3), P = 0 ... 3.

    A basis is reduced when no vector becomes shorter by adding multiples of one other, or, in three dimensions, once
    each of both others with any signs. Every round takes the step that saves most in each lattice that is not
    there yet; the multiples are collected as whole numbers, so that nothing is lost to rounding on the way.

    >>> np.linalg.norm(reduced(np.array([[[3.0, 0, 0], [31.0, 2, 0], [0, 0, 9]]])), axis=2).round(3).tolist()
    [[2.828, 2.236, 9.0]]
    """
    axes = vectors.shape[1]
    steps: FloatArray = np.tile(np.eye(axes), (len(vectors), 1, 1))
    if axes < 2:
        return steps @ vectors
    rows = np.arange(len(vectors))
    while len(rows):
        basis = steps[rows] @ vectors[rows]
        change, saved = _best_step(basis)
        better = saved > SHORTER
        rows = rows[better]
        steps[rows] += change[better] @ steps[rows]
    return steps @ vectors


def _best_step(basis: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What to add (R, P, P) to the identity, to save the part (R,) of the square of the longest vector."""
    size, axes = basis.shape[:2]
    gram = basis @ basis.transpose(0, 2, 1)
    square = np.maximum(np.diagonal(gram, axis1=1, axis2=2), np.finfo(np.float64).tiny)
    rows = np.arange(size)
    times = np.rint(gram / square[:, None, :]) * (1 - np.eye(axes))
    gain = (times * (2 * gram - times * square[:, None, :])).reshape(size, -1)
    best = gain.argmax(1)
    saved, taken, from_, change = gain[rows, best], best % axes, best // axes, np.zeros((size, axes, axes))
    change[rows, from_, taken] = -times[rows, from_, taken]
    if axes == 3:
        total = np.einsum("qi,rij,qj->rq", _SIGNS, gram, _SIGNS)
        longest, sign = square.argmax(1), _SIGNS[total.argmin(1)]
        more = square[rows, longest] - total.min(1)
        diagonal = np.flatnonzero(more > saved)
        at = longest[diagonal]
        sign = sign[diagonal] * sign[diagonal, at][:, None]
        sign[np.arange(len(at)), at] = 0
        change[diagonal] = 0
        change[diagonal, at] = sign
        saved = np.maximum(saved, more)
    return change, saved / square.max(1)
