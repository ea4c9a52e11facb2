"""Which crystals are the same structure, among themselves and as in a reference: uniqueness and novelty."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from megen_gym.analysis.crystal_composition import Formula, reduced_formula
from megen_gym.analysis.crystal_validity import valid_structures
from megen_gym.errors import InputError, require
from megen_gym.structure import BoolArray, IntArray


@dataclass(frozen=True)
class Tolerance:
    """How different two crystals of the same volume per atom may be; the defaults are those of CDVAE.

    Attributes:
        length: Part of the lengths of the lattice vectors.
        angle: Degrees between the lattice vectors.
        sites: Root mean square displacement of the atoms, in units of the cube root of the volume per atom.
    """

    length: float = 0.3
    angle: float = 10.0
    sites: float = 0.5

    def __post_init__(self) -> None:
        if not (self.length > 0 and self.angle > 0 and self.sites > 0):
            raise InputError(
                f"the tolerances are length {self.length}, angle {self.angle} and sites {self.sites}; "
                "give numbers above zero, e.g. 0.3, 10 and 0.5"
            )


CDVAE = Tolerance()


def unique(
    crystals: Sequence[Atoms], *, tolerance: Tolerance = CDVAE, limit: int | None = None, progress: bool = False
) -> IntArray:
    """(B,) index of the first crystal that has the same structure; a crystal's own index where there is none before it.

    Two crystals are the same if pymatgen's StructureMatcher (Ong et al., Comput. Mater. Sci. 68, 314) maps one onto the
    other: primitive cells, scaled to the same volume, compared up to rotation, reflection, translation and order of the
    atoms. That is not transitive; every crystal is compared with the first ones of the groups before it. Only crystals
    with the same reduced formula and the same number of atoms in the primitive cell are compared. A crystal that
    :func:`~megen_gym.analysis.crystal_validity.valid_structures` refuses equals no other.

    The share of unique crystals is ``np.mean(unique(crystals) == np.arange(len(crystals)))``.

    Args:
        crystals: B crystals, periodic in three directions.
        tolerance: What counts as the same.
        limit: Compare with at most so many crystals, those of the closest volume per atom; by default with all.
        progress: Show a progress bar.

    Raises:
        InputError: if pymatgen is missing, for a crystal that is not periodic, or a limit below 1.
    """
    from tqdm import tqdm

    compare = _Comparison(tolerance, limit)
    first = np.arange(len(crystals))
    groups: dict[Formula, list[_Cell]] = {}
    formulas = _formulas(crystals)
    often = Counter(formulas.values())
    rows = [row for row, formula in formulas.items() if often[formula] > 1]
    for row in tqdm(rows, desc="unique", unit="crystal", disable=not progress):
        cell = compare.cell(crystals[row], row)
        leaders = groups.setdefault(formulas[row], [])
        found = compare.first(cell, leaders, ordered=True)
        if found is None:
            leaders.append(cell)
        else:
            first[row] = found.index
    return first


def matches(
    crystals: Sequence[Atoms],
    reference: Sequence[Atoms],
    *,
    tolerance: Tolerance = CDVAE,
    limit: int | None = None,
    progress: bool = False,
) -> BoolArray:
    """(B,) whether the reference has the same structure, compared as by :func:`unique`.

    The share of novel crystals is ``1 - np.mean(matches(crystals, training))``.

    Args:
        crystals: B crystals, periodic in three directions.
        reference: R crystals. Only those with a formula that `crystals` have are looked at.
        tolerance: What counts as the same.
        limit: Compare each with at most so many of the reference, those of the closest volume per atom; by default with
            all.
        progress: Show a progress bar.

    Raises:
        InputError: if pymatgen is missing, for a crystal that is not periodic, or a limit below 1.
    """
    from tqdm import tqdm

    compare = _Comparison(tolerance, limit)
    found = np.zeros(len(crystals), dtype=bool)
    formulas = _formulas(crystals)
    wanted = set(formulas.values())
    members: dict[Formula, list[int]] = {}
    for index, atoms in enumerate(reference):
        formula = reduced_formula(atoms)
        if formula in wanted:
            members.setdefault(formula, []).append(index)
    used = [index for group in members.values() for index in group]
    good = {used[place] for place in np.flatnonzero(valid_structures([reference[index] for index in used])).tolist()}
    cells: dict[Formula, list[_Cell]] = {}
    rows = [row for row, formula in formulas.items() if formula in members]
    for row in tqdm(rows, desc="matches", unit="crystal", disable=not progress):
        formula = formulas[row]
        if formula not in cells:
            cells[formula] = [compare.cell(reference[i], i) for i in members[formula] if i in good]
        if cells[formula]:
            found[row] = compare.first(compare.cell(crystals[row], row), cells[formula], ordered=False) is not None
    return found


def _formulas(crystals: Sequence[Atoms]) -> dict[int, Formula]:
    """Of the valid crystals, by index."""
    return {row: reduced_formula(crystals[row]) for row in np.flatnonzero(valid_structures(crystals)).tolist()}


@dataclass(frozen=True, eq=False)
class _Cell:
    """A crystal as pymatgen's primitive, reduced structure; None where pymatgen cannot make it."""

    index: int
    structure: Any
    volume: float
    atoms: int


class _Comparison:
    def __init__(self, tolerance: Tolerance, limit: int | None) -> None:
        if limit is not None and limit < 1:
            raise InputError(f"cannot compare with at most {limit} crystals; give 1 or more, or None for all")
        try:
            from pymatgen.analysis.structure_matcher import StructureMatcher
        except ImportError:
            require("pymatgen", "crystals")
        self.limit = limit
        self.matcher: Any = StructureMatcher(ltol=tolerance.length, stol=tolerance.sites, angle_tol=tolerance.angle)

    def cell(self, atoms: Atoms, index: int) -> _Cell:
        """Reduced as StructureMatcher does it, but once and not anew for every pair."""
        from pymatgen.core import Lattice, Structure

        try:
            structure = Structure(
                Lattice(atoms.cell.array), atoms.numbers.tolist(), atoms.positions, coords_are_cartesian=True
            )
            structure = structure.get_reduced_structure(reduction_algo="niggli").get_primitive_structure()
        except Exception:  # the reduction of odd cells raises many kinds of errors
            return _Cell(index, None, np.nan, 0)
        return _Cell(index, structure, structure.volume / len(structure), len(structure))

    def first(self, cell: _Cell, others: Sequence[_Cell], *, ordered: bool) -> _Cell | None:
        """The first of the others (or, if not `ordered`, any) that has the same structure."""
        if cell.structure is None:
            return None
        others = [other for other in others if other.atoms == cell.atoms]
        by_volume = sorted(others, key=lambda other: abs(other.volume - cell.volume))[: self.limit]
        candidates = sorted(by_volume, key=lambda other: other.index) if ordered else by_volume
        return next((other for other in candidates if self._same(other.structure, cell.structure)), None)

    def _same(self, first: Any, second: Any) -> bool:
        try:
            return bool(self.matcher.fit(first, second, skip_structure_reduction=True))
        except Exception:  # as above; a pair that cannot be compared is not the same
            return False
