"""Do crystals have the space group that they were asked to have?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from ase import Atoms

from megen_gym.analysis.crystal_validity import require_periodic
from megen_gym.errors import InputError, require
from megen_gym.structure import BoolArray, IntArray
from megen_gym.wyckoff import space_group, symmetry_dataset

SYMPREC = 0.01
"""Å, within which atoms count as equivalent."""


def found_groups(crystals: Sequence[Atoms], symprec: float = SYMPREC) -> IntArray:
    """(B,) number of the space group that spglib finds (Togo et al., Sci. Technol. Adv. Mater. Meth. 4, 2384822).

    Args:
        crystals: B crystals, periodic in three directions.
        symprec: Å, within which atoms count as equivalent.

    Returns:
        1 to 230; 0 where spglib finds none, e.g. where atoms overlap.

    Raises:
        InputError: for a crystal that is not periodic, or a symprec that is not above zero.

    >>> from ase.build import bulk
    >>> found_groups([bulk("Cu"), bulk("Si")]).tolist()
    [225, 227]
    """
    if not 0 < symprec < np.inf:
        raise InputError(f"symprec is {symprec} Å; give a finite length above zero, e.g. {SYMPREC}")
    require_periodic(crystals)
    found = np.zeros(len(crystals), dtype=np.int64)
    for index, atoms in enumerate(crystals):
        cell, fractions = atoms.cell.array, None
        if len(atoms) and np.isfinite(cell).all() and np.linalg.matrix_rank(cell) == 3:
            fractions = np.linalg.solve(cell.T, atoms.positions.T).T
        if fractions is not None and np.isfinite(fractions).all():
            data = symmetry_dataset(cell, fractions, atoms.numbers, symprec)
            found[index] = 0 if data is None else data.number
    return found


def group_numbers(groups: Sequence[int | str]) -> IntArray:
    """(B,) numbers of space groups given by number or symbol.

    Raises:
        InputError: for a group that does not exist.
    """
    return np.array([space_group(name).number for name in groups], dtype=np.int64)


def at_least(found: IntArray, asked: Sequence[int | str] | IntArray) -> BoolArray:
    """(B,) whether a crystal of the group `found` has all the symmetry that was asked for, or more.

    It has if the group found has a subgroup of the type asked for, where a subgroup may also have lost lattice
    translations: a crystal of Pm-3m is also one of P4/mmm and, described in a doubled cell, one of Fm-3m. The relation
    follows from the maximal subgroups of each type, which pymatgen lists, over any number of steps. It is about types:
    P2, whose axis is a screw axis in a doubled cell, contains P2_1, whatever cell was made. Comparing operation counts
    instead would call Fm-3m a supergroup of P6.

    Args:
        found: (B,) numbers from :func:`found_groups`; 0 has no symmetry.
        asked: (B,) numbers or symbols.

    Raises:
        InputError: if pymatgen is missing, for a group that does not exist, or other lengths.
    """
    wanted = group_numbers(list(asked))
    if wanted.shape != np.shape(found):
        raise InputError(f"{len(wanted)} groups were asked for, but there are {len(found)} crystals; give one for each")
    return np.asarray(_contains()[found, wanted], dtype=bool)


@lru_cache(maxsize=1)
def _contains() -> BoolArray:
    """(231, 231) whether the group of the row has a subgroup of the type of the column."""
    try:
        from pymatgen.symmetry.groups import SYMM_DATA
    except ImportError:
        require("pymatgen", "crystals")
    reach = np.zeros((231, 231), dtype=np.float32)
    for group, subgroups in SYMM_DATA["maximal_subgroups"].items():
        reach[int(group), subgroups] = 1
    np.fill_diagonal(reach[1:, 1:], 1)
    while True:
        further = (reach @ reach > 0).astype(np.float32)
        if np.array_equal(further, reach):
            return np.asarray(reach > 0)
        reach = further
