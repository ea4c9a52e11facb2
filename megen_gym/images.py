"""The images of a lattice: which of them have to be looked at, and a search among no more than those."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
from ase.geometry import complete_cell

from megen_gym.actions import Array, namespace
from megen_gym.errors import InputError
from megen_gym.reduction import reduced
from megen_gym.structure import FloatArray, IntArray

CHUNK = 1 << 21
"""Pairs (of atoms and images) held at one time by the neighbour search."""


class Images:
    """The Minkowski-reduced basis b_i of P periodic axes, P = 0 .. 3.

    With h_i the distance between its lattice planes, a vector of fractional coordinates f is at least max_i |f_i| h_i
    long. Of c_i images along axis i, those nearest to a point, none that is left out is nearer than min_i c_i h_i / 2.

    Args:
        vectors: (P, 3) Å, lattice vectors.

    Attributes:
        basis: (P, 3) Å.
        dual: (3, P) 1/Å, from positions to fractional coordinates.
        spacing: (P,) Å, h_i.
        frame: (3, 3) Å, the basis completed by unit vectors at right angles to it.
        relevant: (R, 3) Å, the lattice vectors that bound the Voronoi cell; none where rounding is exact.
    """

    def __init__(self, vectors: FloatArray) -> None:
        self.basis = reduced(vectors[None])[0]
        self.dual = np.linalg.pinv(self.basis) if len(vectors) else np.zeros((3, 0))
        self.spacing = 1 / np.linalg.norm(self.dual, axis=0)
        self.frame = _complete(self.basis)
        self.relevant = _relevant(self.basis)

    def counts(self, reach: float) -> IntArray:
        """(P,) images along each axis that hold all up to `reach` Å."""
        return np.asarray(np.maximum(1, np.ceil(2 * reach / self.spacing * (1 + 1e-5))).astype(np.int64))

    def own(self, k: int) -> float:
        """Å within which every atom has k images of itself; infinite where nothing is periodic."""
        counts = np.ones(len(self.spacing), dtype=np.int64)
        while len(counts) and counts.prod() <= k:
            counts[np.argmin(counts * self.spacing)] += 1
        lengths = np.linalg.norm(outward(counts) @ self.basis, axis=1)
        return float(np.sort(lengths)[k]) if len(counts) else math.inf

    def excess(self, vectors: Array) -> Array:
        """(M, 3) Å, the lattice vectors to take from `vectors` (M, 3) to make them shortest.

        Rounding in the reduced basis comes close. A vector is shortest exactly if no Voronoi-relevant lattice vector
        makes it shorter (Conway & Sloane, Proc. R. Soc. A 436, 55); those are added while they do.
        """
        xp = namespace(vectors)
        basis, dual, relevant = (alike(array, vectors) for array in (self.basis, self.dual, self.relevant))
        images = xp.round(vectors @ dual) @ basis
        if not len(relevant):
            return images
        rest = vectors - images
        safe = float(self.spacing.min() / 2) ** 2
        rows = xp.where((rest**2).sum(-1) > safe)[0]
        square = (relevant**2).sum(-1)
        slack = 8 * float(np.finfo(str(rest.dtype).rpartition(".")[2]).eps) * float(square.max())
        while len(rows):
            change = 2 * rest[rows] @ relevant.T + square
            best = change.argmin(-1)
            better = change[alike(np.arange(len(rows)), best), best] < -slack
            rows, step = rows[better], relevant[best[better]]
            rest[rows] = rest[rows] + step
            images[rows] = images[rows] - step
        return images

    def neighbours(self, positions: Array, k: int) -> tuple[Array, Array]:
        """The k nearest of every atom: index (B, N, k), and the lattice vector (B, N, k, 3), Å, to the image meant.

        The first search sees one image of each atom; the k-th distance that it finds bounds the true one and says how
        many images the second must see.

        Args:
            positions: (B, N, 3) Å.
            k: Neighbours of each atom, images of itself and several of one atom included.

        Raises:
            InputError: for positions that are not finite.
        """
        xp, atoms = namespace(positions), int(positions.shape[1])
        found = [self._neighbours(positions[rows], k) for rows in slices(len(positions), atoms**2)]
        other, image = (xp.concatenate(column) for column in zip(*found, strict=True))
        return other, image @ alike(self.basis, positions)

    def _neighbours(self, positions: Array, k: int) -> tuple[Array, Array]:
        xp, own = namespace(positions), self.own(k)
        counts = self.counts(own if k >= positions.shape[1] else 0.0)
        other, image, square = self._search(positions, counts, k)
        while True:
            reach = float((counts * self.spacing).min(initial=math.inf)) / 2
            rows = xp.where(~(square <= reach**2))[0]
            if not len(rows):
                return other, image
            worst = math.sqrt(float(square[rows].max()))
            if not math.isfinite(worst):
                raise InputError("positions that are NaN or infinite have no neighbours; repair or remove them")
            counts = np.maximum(counts, self.counts(min(worst, own)))
            other[rows], image[rows], square[rows] = self._search(positions[rows], counts, k)

    def _search(self, positions: Array, counts: IntArray, k: int) -> tuple[Array, Array, Array]:
        """The k nearest of every atom among the images nearest to it, `counts` of them along the axes.

        Returns:
            Index (B, N, k), image (B, N, k, P), and the largest squared distance found (B,).
        """
        xp, axes, atoms = namespace(positions), len(counts), int(positions.shape[1])
        frame, steps = alike(self.frame, positions), outward(counts)
        fractions = positions @ alike(np.linalg.inv(self.frame), positions)
        own, found = np.arange(atoms), []
        for part in slices(len(positions), atoms**2 * len(steps)):
            here = fractions[part]
            first = xp.stack([here[..., axis] for axis in range(3)])
            delta = first[:, :, None] - first[:, :, :, None]
            delta[:axes] -= xp.round(delta[:axes])
            toward = nearer_side(delta[:axes]) if len(steps) > 1 else None
            squares = []
            for step in steps:
                moved = delta
                if step.any():
                    shift = alike(step, delta)[:, None, None, None] * toward
                    moved = xp.concatenate([delta[:axes] + shift, delta[axes:]])
                vector = frame.T @ moved.reshape(3, -1)
                squares.append((vector * vector).sum(0).reshape(delta.shape[1:]))
            squares[0][:, own, own] = math.inf
            chosen, square = _smallest(xp.concatenate(squares, -1), k)
            other = chosen % atoms
            apart = here[alike(np.arange(len(other)), here)[:, None, None], other] - here[:, :, None]
            home = xp.round(apart[..., :axes])
            step = nearer_side(apart[..., :axes] - home) * alike(steps, here)[chosen // atoms]
            found.append((other, step - home, xp.amax(square, (1, 2))))
        other, image, square = (xp.concatenate(column) for column in zip(*found, strict=True))
        return other, image, square


def alike(values: Any, like: Array) -> Array:
    """`values` (numpy) as an array of the kind of `like`; numbers that are not integers take its precision too."""
    xp = namespace(like)
    floating = np.issubdtype(values.dtype, np.floating)
    if xp is np:
        return values.astype(like.dtype) if floating and np.issubdtype(like.dtype, np.floating) else values
    return xp.as_tensor(values, dtype=like.dtype if floating and like.is_floating_point() else None, device=like.device)


def no_gradient(like: Array) -> Any:
    xp = namespace(like)
    return nullcontext() if xp is np else xp.no_grad()


def slices(rows: int, weight: int) -> Iterator[slice]:
    """Slices of `rows`, each of at most CHUNK numbers at `weight` a row."""
    size = max(1, CHUNK // max(1, weight))
    return (slice(begin, begin + size) for begin in range(0, rows, size))


def length(vectors: Array) -> Array:
    """(...) lengths of vectors (..., 3) with gradient zero at zero."""
    xp = namespace(vectors)
    square = (vectors * vectors).sum(-1)
    return xp.sqrt(xp.where(square > 0, square, 1)) * (square > 0)


def _smallest(values: Array, k: int) -> tuple[Array, Array]:
    """Index and value (..., k) of the k smallest along the last axis, ascending."""
    if namespace(values) is not np:
        found = values.topk(k, -1, largest=False)
        return found.indices, found.values
    index = np.argpartition(values, k - 1, -1)[..., :k]
    value = np.take_along_axis(values, index, -1)
    order = np.argsort(value, -1)
    return np.take_along_axis(index, order, -1), np.take_along_axis(value, order, -1)


def outward(counts: IntArray) -> FloatArray:
    """(prod(counts), P) whole steps from a point just above 0, along each axis the nearest of 0, 1, -1, 2, -2, ..."""
    axes = [[float((i + 1) // 2 * (1 if i % 2 else -1)) for i in range(count)] for count in counts]
    return np.array(list(itertools.product(*axes)), dtype=np.float64).reshape(int(counts.prod()), len(counts))


def nearer_side(fractions: Array) -> Array:
    """The sign of the step whose image is nearer than that of the opposite one: -1 where a fraction is positive."""
    xp = namespace(fractions)
    return xp.where(fractions > 0, -xp.ones_like(fractions), 1)


def _complete(basis: FloatArray) -> FloatArray:
    """(3, 3) `basis` (P, 3) followed by unit vectors at right angles to it."""
    cell = np.zeros((3, 3))
    cell[: len(basis)] = basis
    return np.asarray(complete_cell(cell))


def _relevant(basis: FloatArray) -> FloatArray:
    """(R, 3) Å, the Voronoi-relevant lattice vectors of a reduced basis; none where rounding alone is exact.

    They are the shortest of their class modulo twice the lattice (Conway & Sloane, theorem 2).
    """
    gram = basis @ basis.T
    if np.abs(gram - np.diag(np.diag(gram))).max(initial=0) <= 1e-12 * np.abs(gram).max(initial=0):
        return np.zeros((0, 3))
    steps = np.array(list(itertools.product(range(-2, 3), repeat=len(basis))))
    steps = steps[(steps % 2).any(1)]
    vectors = steps @ basis
    square, kind = (vectors**2).sum(1), (steps % 2) @ (2 ** np.arange(len(basis)))
    least = np.array([square[kind == k].min() for k in kind])
    return np.asarray(vectors[square <= least * (1 + 1e-9)])
