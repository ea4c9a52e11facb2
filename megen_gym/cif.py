"""Crystals as CIF with their symmetry: operations, and one line for each Wyckoff site."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from megen_gym.crystals import SYMBOLS, CrystalBatch
from megen_gym.structure import FloatArray, IntArray
from megen_gym.wyckoff import LETTERS, space_group

_LATTICE = (
    "_cell_length_a", "_cell_length_b", "_cell_length_c", "_cell_angle_alpha", "_cell_angle_beta", "_cell_angle_gamma",
)  # fmt: skip


def cif_text(crystals: CrystalBatch, names: Sequence[str] | None = None) -> list[str]:
    """One CIF block per crystal, which keeps the symmetry that the crystal was written with.

    Args:
        crystals: B crystals.
        names: Of the blocks; by default formula and number.
    """
    formulas = [atoms.get_chemical_formula("metal") for atoms in crystals.to_atoms()]
    multiplicity = crystals.multiplicity
    texts = []
    for row, formula in enumerate(formulas):
        group = space_group(int(crystals.group[row]))
        name = names[row] if names is not None else f"{formula}_{row}"
        lines = [f"data_{name.replace(' ', '_')}", f"_chemical_formula_sum '{_spaced(crystals, row)}'"]
        lines += [f"{key} {value:.8f}" for key, value in zip(_LATTICE, crystals.lattice[row], strict=True)]
        lines += [f"_space_group_name_H-M_alt '{group.symbol}'", f"_space_group_IT_number {group.number}"]
        lines += ["loop_", " _space_group_symop_operation_xyz"]
        lines += [f" '{text}'" for text in operations_text(*group.operations)]
        keys = ("label", "type_symbol", "symmetry_multiplicity", "Wyckoff_symbol", "fract_x", "fract_y", "fract_z")
        lines += ["loop_", *(f" _atom_site_{key}" for key in keys), " _atom_site_occupancy"]
        for site in range(int(crystals.n_sites[row])):
            symbol = SYMBOLS[crystals.elements[row, site]]
            place = " ".join(f"{value:.8f}" for value in crystals.coordinates[row, site])
            letter = LETTERS[crystals.letters[row, site] - 1]
            lines.append(f" {symbol}{site + 1} {symbol} {multiplicity[row, site]} {letter} {place} 1.0")
        texts.append("\n".join(lines) + "\n")
    return texts


def operations_text(rotations: IntArray, translations: FloatArray) -> list[str]:
    """Symmetry operations such as ``-y,x-y,z+1/3``.

    >>> operations_text(np.array([[[0, -1, 0], [1, -1, 0], [0, 0, 1]]]), np.array([[0.0, 0.0, 1 / 3]]))
    ['-y,x-y,z+1/3']
    """
    texts = []
    for rotation, translation in zip(rotations.tolist(), translations.tolist(), strict=True):
        parts = []
        for row, shift in zip(rotation, translation, strict=True):
            terms = [("-" if value < 0 else "+") + axis for value, axis in zip(row, "xyz", strict=True) if value]
            part = "".join(terms).removeprefix("+")
            fraction = Fraction(shift % 1.0).limit_denominator(24)
            parts.append(part + (f"+{fraction}" if fraction else ""))
        texts.append(",".join(parts))
    return texts


def _spaced(crystals: CrystalBatch, row: int) -> str:
    counts = np.bincount(crystals.elements[row], crystals.multiplicity[row], minlength=len(SYMBOLS))
    return " ".join(f"{SYMBOLS[z]}{int(counts[z])}" for z in np.flatnonzero(counts))
