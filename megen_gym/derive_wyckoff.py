"""The Wyckoff positions of the 230 space groups, derived from spglib: ``python -m megen_gym.derive_wyckoff``.

Writes ``data/wyckoff.csv``, which :mod:`megen_gym.wyckoff` reads. Operations are those of spglib's database in its
default settings. A special position is an orbit of the subspaces that operations leave fixed (International Tables A,
section 1.4.4); spglib's own analysis of a crystal in which every position is taken says which letter it has. Takes a
minute.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from megen_gym.errors import InputError
from megen_gym.structure import FloatArray, IntArray

FILE = Path(__file__).parent / "data" / "wyckoff.csv"

_GRID = 24
"""Every coordinate of a position without freedom is a multiple of 1/24."""

_PIVOTS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2))
_TRIES = 20

_LATTICES = {2: (5, 6, 7, 81, 97, 104), 15: (5, 6, 7, 90, 103, 90), 74: (5, 6, 7, 90, 90, 90)}
_LATTICES |= {142: (5, 5, 7, 90, 90, 90), 194: (5, 5, 7, 90, 90, 120), 230: (6, 6, 6, 90, 90, 90)}

Subspace = tuple[tuple[int, ...], tuple[Fraction, ...]]
"""Basis (3, 3), flat: row i is what coordinate i adds, zero where it is not free; and the point where all are 0."""


def hall_numbers() -> list[int]:
    """spglib's number of the default setting of groups 1 ... 230: b unique, cell choice 1, hexagonal axes, origin 1."""
    import spglib

    first: dict[int, int] = {}
    for hall in range(1, 531):
        first.setdefault(_known(spglib.get_spacegroup_type(hall)).number, hall)
    return [first[number] for number in range(1, 231)]


def operations(hall: int) -> tuple[IntArray, FloatArray]:
    """Rotations (M, 3, 3) and translations (M, 3) of a setting, centring included, the identity first."""
    import spglib

    found = _known(spglib.get_symmetry_from_database(hall))
    return np.asarray(found["rotations"], dtype=np.int64), np.asarray(found["translations"], dtype=np.float64)


def special_positions(rotations: IntArray, translations: FloatArray) -> list[list[Subspace]]:
    """Every special position as the list of its subspaces modulo lattice translations, the plainest first.

    Points come before lines, and lines before planes.
    """
    found: dict[Subspace, FloatArray] = {}
    shifts = np.array(list(product(range(-3, 4), repeat=3)))
    for rotation, translation in zip(rotations, translations, strict=True):
        projector, order = _projector(rotation)
        if not 0.5 < np.trace(projector) < 2.5:
            continue
        moves = translation + shifts
        for move in moves[np.abs(moves @ projector.T).max(1) < 1e-6]:  # no screw, no glide
            point, total = np.zeros(3), np.zeros(3)
            for _ in range(order):
                total += point
                point = rotation @ point + move
            found[_subspace(projector, total / order)] = projector
    grid = np.array(list(product(range(_GRID), repeat=3)))
    traces = np.zeros(len(grid), dtype=np.int64)
    for rotation, translation in zip(rotations, np.rint(translations * _GRID).astype(int), strict=True):
        traces += np.trace(rotation) * (((grid @ rotation.T + translation - grid) % _GRID) == 0).all(1)
    found |= {_subspace(np.zeros((3, 3)), point / _GRID): np.zeros((3, 3)) for point in grid[traces == 0]}
    orbits = []
    while found:
        first, projector = next(iter(found.items()))
        images = {
            _subspace(r @ projector @ np.linalg.inv(r), r @ np.array(first[1], dtype=float) + t)
            for r, t in zip(rotations, translations, strict=True)
        }
        for image in images:
            del found[image]
        orbits.append(sorted(images, key=_plainness))
    return sorted(orbits, key=lambda orbit: np.count_nonzero(np.diag(np.reshape(orbit[0][0], (3, 3)))))


def lettered(hall: int, number: int) -> list[tuple[str, int, Subspace]]:
    """Letter, multiplicity and representative of every position, in the order of the letters.

    Raises:
        InputError: where spglib sees another group or another number of positions.
    """
    import spglib
    from ase.cell import Cell

    rotations, translations = operations(hall)
    everywhere: Subspace = (tuple(np.eye(3, dtype=int).ravel().tolist()), (Fraction(0),) * 3)
    orbits = [*special_positions(rotations, translations), [everywhere]]
    lengths = next(cell for last, cell in _LATTICES.items() if number <= last)
    cell = np.asarray(Cell.fromcellpar(lengths))
    for seed in range(_TRIES):  # spglib gives up on some unlucky crystals
        points = _taken([*orbits, [everywhere], [everywhere]], rotations, translations, np.random.default_rng(seed))
        kinds = np.repeat(np.arange(len(points)) + 1, [len(part) for part in points])
        crystal: Any = (cell, np.concatenate(points), kinds)
        seen: Any = spglib.get_symmetry_dataset(crystal, symprec=1e-4)
        if seen is not None and seen.hall_number == hall:
            break
    else:
        raise InputError(f"spglib does not recognise its own setting {hall}; use another version of it")
    moved = np.concatenate(points) @ seen.transformation_matrix.T + seen.origin_shift
    named: dict[int, tuple[str, int, Subspace]] = {}
    firsts = np.concatenate([[0], np.cumsum([len(part) for part in points])])[: len(orbits)]
    for first in firsts:
        home = next(k for k, orbit in enumerate(orbits) if any(_holds(space, moved[first]) for space in orbit))
        named[home] = (seen.wyckoffs[first], len(points[home]), orbits[home][0])
    if len(named) != len(orbits) or len({row[0] for row in named.values()}) != len(orbits):
        raise InputError(f"spglib does not name each position of group {number} once; use another version of it")
    return sorted(named.values(), key=lambda row: (row[0] == "A", row[0]))


def _taken(
    orbits: list[list[Subspace]], rotations: IntArray, translations: FloatArray, rng: np.random.Generator
) -> list[FloatArray]:
    """One set of equivalent points (M, 3) in every orbit."""
    points = []
    for orbit in orbits:
        start = np.array(orbit[0][1], dtype=float) + rng.random(3) @ np.reshape(orbit[0][0], (3, 3))
        images = (rotations @ start + translations) % 1.0
        points.append(images[np.unique(np.round(images * 1e6) % 1_000_000, axis=0, return_index=True)[1]])
    return points


def written(space: Subspace) -> str:
    """A representative as in the International Tables.

    >>> written(((1, 2, 0, 0, 0, 0, 0, 0, 0), (Fraction(0), Fraction(0), Fraction(1, 4))))
    'x,2x,1/4'
    """
    basis = np.reshape(space[0], (3, 3))
    parts = []
    for axis in range(3):
        part = ""
        for name, factor in zip("xyz", basis[:, axis], strict=True):
            if factor:
                part += f"{'-' if factor < 0 else '+'}{abs(factor) if abs(factor) > 1 else ''}{name}"
        if space[1][axis] or not part:
            part += f"+{space[1][axis]}"
        parts.append(part.removeprefix("+"))
    return ",".join(parts)


def rows() -> Iterable[tuple[int, int, str, int, str]]:
    """Group, spglib's setting, letter, multiplicity and representative of all 1731 positions."""
    for number, hall in enumerate(hall_numbers(), start=1):
        for letter, multiplicity, space in lettered(hall, number):
            yield number, hall, letter, multiplicity, written(space)


def _known(answer: Any) -> Any:
    if answer is None:
        raise InputError("spglib does not answer for one of its own groups; use another version of it")
    return answer


def _projector(rotation: IntArray) -> tuple[FloatArray, int]:
    """On the directions that a rotation leaves as they are, and its order."""
    powers = [np.eye(3, dtype=np.int64)]
    while not np.array_equal(power := powers[-1] @ rotation, powers[0]):
        powers.append(power)
    return np.mean(powers, axis=0), len(powers)


def _subspace(projector: FloatArray, point: FloatArray) -> Subspace:
    """The subspace through `point`, in the one form that all of its descriptions share."""
    rank = round(float(np.trace(projector)))
    basis = np.zeros((3, 3), dtype=np.int64)
    span = np.linalg.svd(projector)[0][:, :rank].T
    for pivots in (p for p in _PIVOTS if len(p) == rank):
        if abs(np.linalg.det(span[:, pivots])) > 1e-6:
            found = np.linalg.solve(span[:, pivots], span)
            if np.abs(found - np.rint(found)).max() < 1e-6:  # else 2x,x,z with x/2 in it: start from x
                basis[list(pivots)] = np.rint(found)
                break
    shift = (point - point @ basis) % 1.0
    exact = tuple(Fraction(round(value * 2 * _GRID) % (2 * _GRID), 2 * _GRID) for value in shift.tolist())
    return tuple(basis.ravel().tolist()), exact


def _plainness(space: Subspace) -> tuple[Any, ...]:
    """Few signs, few factors, early letters, small shifts."""
    basis = np.array(space[0])
    return int((basis < 0).sum()), int(np.abs(basis).sum()), [-b for b in space[0]], sum(space[1]), space[1]


def _holds(space: Subspace, point: FloatArray) -> bool:
    """Whether a point lies on the subspace, modulo lattice translations."""
    off = point - point @ np.reshape(space[0], (3, 3)) - np.array(space[1], dtype=float)
    return bool(np.abs(off - np.rint(off)).max() < 1e-6)


if __name__ == "__main__":
    with FILE.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("group", "setting", "letter", "multiplicity", "representative"))
        writer.writerows(rows())
