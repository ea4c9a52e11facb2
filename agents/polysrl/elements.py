"""What a network is told about each element: published embeddings and properties, by name."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray, IntArray

FILE = Path(__file__).parent / "bundle" / "elements.npz"

LAST = 100
"""Largest atomic number of the tables."""

MAGPIE = (
    "Number", "MendeleevNumber", "AtomicWeight", "MeltingT", "Column", "Row", "CovalentRadius", "Electronegativity",
    "NsValence", "NpValence", "NdValence", "NfValence", "NValence", "NsUnfilled", "NpUnfilled", "NdUnfilled",
    "NfUnfilled", "NUnfilled", "GSvolume_pa", "GSbandgap", "GSmagmom", "SpaceGroupNumber",
)  # fmt: skip
"""Columns of the table ``magpie`` (Ward et al., npj Comput. Mater. 2, 16028)."""

TABLES = ("matscholar", "magpie", "cgcnn", "megnet16", "onehot", "combined")
"""Names of the tables, see :func:`element_table`."""


@lru_cache(maxsize=len(TABLES))
def element_table(name: str) -> FloatArray:
    """(101, D) features by atomic number; NaN in the rows, or single values, that are not known. Row 0 is NaN.

    =============  ===  ===========================================================================================
    name             D  what
    =============  ===  ===========================================================================================
    ``matscholar`` 200  embeddings of words in abstracts (Tshitoyan et al., Nature 571, 95), unit length; published
    ``magpie``      22  properties, :data:`MAGPIE`
    ``cgcnn``       92  properties in bins (Xie, Grossman, Phys. Rev. Lett. 120, 145301)
    ``megnet16``    16  learned on formation energies (Chen et al., Chem. Mater. 31, 3564)
    ``onehot``     100  the element itself
    ``combined``   222  matscholar and magpie
    =============  ===  ===========================================================================================

    Raises:
        InputError: for an unknown name.

    >>> element_table("magpie")[31, :3].round(2).tolist()
    [31.0, 74.0, 69.72]
    """
    if name not in TABLES:
        raise InputError(f"there are no element features called {name!r}; {nearest(name, TABLES)}")
    if name == "onehot":
        table = np.eye(LAST + 1)[:, 1:]
        table[0] = np.nan
        return table
    if name == "combined":
        return np.concatenate([element_table("matscholar"), element_table("magpie")], 1)
    with np.load(FILE, allow_pickle=False) as tables:
        return np.asarray(tables[name].astype(np.float64))


@lru_cache(maxsize=len(TABLES))
def network_features(name: str) -> FloatArray:
    """(101, D) of :func:`element_table` for networks: properties standardised over the elements, 0 where unknown.

    A row of zeros is an element without any feature, as is row 0.
    """
    table = element_table(name)
    if name == "combined":
        return np.concatenate([network_features("matscholar"), network_features("magpie") / np.sqrt(len(MAGPIE))], 1)
    if name == "magpie":
        table = (table - np.nanmean(table, 0)) / np.nanstd(table, 0)
    return np.nan_to_num(table, nan=0.0)


def check_elements(numbers: IntArray, name: str) -> None:
    """Refuse elements that have no features.

    Args:
        numbers: Atomic numbers of any shape; 0 is padding.
        name: Of the table.

    Raises:
        InputError: naming the elements.
    """
    features = network_features(name)
    present = np.unique(numbers)
    present = present[present > 0]
    without = [int(z) for z in present if z > LAST or not features[z].any()]
    if without:
        names = ", ".join(chemical_symbols[z] if z < len(chemical_symbols) else f"element {z}" for z in without)
        raise InputError(f"{names}: no element features in {name!r} (they reach from H to Fm); leave such formulas out")
