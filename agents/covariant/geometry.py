"""Where an atom may go: the placement rules as a continuous weight on candidate positions."""

from __future__ import annotations

import torch
from torch import Tensor

from megen_gym.agents.covariant.canvas import FAR, dot
from megen_gym.rules import PlacementRules

CHUNK = 1 << 20
"""Distances held at one time, to bound the memory of large batches."""


def _merge(first: list[Tensor], second: list[Tensor], k: int) -> list[Tensor]:
    """The k smallest of two ascending lists of tensors, element by element, ascending.

    The m smallest of a_0 <= a_1 .. and b_0 <= b_1 .. are the min(a_i, b_(m-1-i)); a network of exchanges sorts them.
    """
    m = min(k, len(first) + len(second))
    pairs = [(first[i : i + 1], second[m - 1 - i : m - i]) for i in range(m)]
    best = [torch.minimum(a[0], b[0]) if a and b else (a or b)[0] for a, b in pairs]
    for end in range(m - 1, 0, -1):
        for i in range(end):
            best[i], best[i + 1] = torch.minimum(best[i], best[i + 1]), torch.maximum(best[i], best[i + 1])
    return best


def smallest(values: Tensor, k: int) -> list[Tensor]:
    """The k (or N, if fewer) smallest along the first axis of `values` (N, ...), ascending, by a tournament of halves.

    About five passes over `values`; a sort of short columns costs ten times that.
    """

    def play(lists: list[Tensor]) -> list[Tensor]:
        n = len(lists[0])
        if n == 1:
            return [x[0] for x in lists]
        half = n // 2
        winners = play(_merge([x[:half] for x in lists], [x[half : 2 * half] for x in lists], k))
        return _merge(winners, [x[-1] for x in lists], k) if n % 2 else winners

    return play([values])


class PlacementField:
    """log w of a candidate position: 0 where :meth:`PlacementRules.valid` holds, falling with the violation.

    With d_(k) the distance to the k-th nearest atom and [low_k, high_k] its window (the guards bound the first),
    v = sum_k [relu(low_k + margin - d_(k)) + relu(d_(k) - high_k + margin)], k = 1 .. number of atoms, and
    w = (1 + penalty v / 20)^-20. It is continuous, so that rounding cannot open or close a cell, and nowhere too small
    for float32, so that the least bad position is taken where none is valid.

    Args:
        rules: Guards and windows.
        penalty: 1/Å.
        margin: Å by which the windows are narrowed (at most a quarter of their width), since a placement is drawn
            around the candidate and not at it.
    """

    def __init__(self, rules: PlacementRules, penalty: float, margin: float) -> None:
        low, high = rules.windows[0] if rules.windows else (0.0, float("inf"))
        windows = ((max(low, rules.min_distance), min(high, rules.max_distance)), *rules.windows[1:])
        inset = [max(0.0, min(margin, (high - low) / 4)) for low, high in windows]
        self.windows = tuple((low + by, high - by) for (low, high), by in zip(windows, inset, strict=True))
        self.penalty = penalty

    def log_weight(self, squared: Tensor, n_atoms: Tensor) -> Tensor:
        """log w (...) of candidates from the squared distances (N, ...), Å², to the atoms, FAR² where none is."""
        total = torch.zeros_like(squared[0])
        nearest = smallest(squared, len(self.windows))
        for k, (square, (low, high)) in enumerate(zip(nearest, self.windows, strict=False)):
            distance = square.clip(0).sqrt_()
            broken = (low - distance).clip_(0) + (distance - high).clip_(0)
            total += broken.mul_(n_atoms > k)
        return total.mul_(self.penalty / 20).log1p_().mul_(-20)

    def along(self, local: Tensor, present: Tensor, distances: Tensor, directions: Tensor) -> Tensor:
        """log w (F, R, D) at R distances from F foci in D directions.

        Args:
            local: (F, N, 3) Å, the atoms seen from each focus, itself included.
            present: (F, N) true where there is an atom.
            distances: (F, R) or (1, R) Å.
            directions: (D, 3), the same for all foci, or (F, D, 3).
        """
        square = torch.where(present, dot(local, local), FAR**2).T[..., None] + distances**2
        ahead = -2 * local.transpose(0, 1)[:, :, None] * distances[..., None]
        atoms = torch.cat([ahead, square[..., None]], -1)
        points = torch.cat([directions, torch.ones_like(directions[..., :1])], -1).transpose(-1, -2)
        n_atoms = present.sum(-1)[:, None, None]
        foci = max(1, CHUNK // (len(atoms) * atoms.shape[2] * points.shape[-1]))
        pieces = []
        for begin in range(0, len(local), foci):
            some = slice(begin, begin + foci)
            rows = atoms[:, some]
            # One flat product is three times as fast as the batched one that the slice would get.
            squared = rows.reshape(-1, 4) @ points if points.dim() == 2 else rows @ points[some]
            pieces.append(self.log_weight(squared.view(*rows.shape[:3], -1), n_atoms[some]))
        return torch.cat(pieces)
