"""Structures that share a composition, with their energies: the bundled set, and any other in the same file format."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from megen_gym.errors import InputError
from megen_gym.runs import atomic
from megen_gym.structure import FloatArray, IntArray

BUNDLE = Path(__file__).parent / "bundle" / "polymorphs.npz"

WINDOW = 0.1
"""eV/atom above the lowest structure of a composition: the bundle holds what lies within."""

FORMAT = 1
"""Of the file; one of another format is not read."""


@dataclass(frozen=True, eq=False)
class Polymorphs:
    """S structures of C compositions, N atoms in all; sorted by composition, then by energy.

    Attributes:
        formulas: of the compositions, reduced, symbols by electronegativity ("BaTiO3").
        kinds: (C,) formula types, "ABX3" with cations A, B and anions X.
        composition: (S,) which composition a structure has.
        energy: (S,) eV per atom above the lowest structure of the composition, which has 0.
        prototypes: AFLOW's label of each structure's prototype.
        cells: (S, 3, 3) Å, rows are lattice vectors.
        offsets: (S + 1,) the atoms of structure s are offsets[s] to offsets[s + 1].
        numbers: (N,) atomic numbers.
        fractions: (N, 3) coordinates as shares of the lattice vectors.

    Raises:
        InputError: where the shapes do not fit together.
    """

    formulas: tuple[str, ...]
    kinds: tuple[str, ...]
    composition: IntArray
    energy: FloatArray
    prototypes: tuple[str, ...]
    cells: FloatArray
    offsets: IntArray
    numbers: IntArray
    fractions: FloatArray

    def __post_init__(self) -> None:
        size, atoms = len(self.composition), len(self.numbers)
        shapes = [self.energy.shape, (len(self.prototypes),), self.cells.shape, self.offsets.shape]
        wanted = [(size,), (size,), (size, 3, 3), (size + 1,)]
        inside = not size or 0 <= self.composition.min() <= self.composition.max() < len(self.formulas)
        ends = self.offsets.shape == (size + 1,) and self.offsets[0] == 0 and self.offsets[-1] == atoms
        if len(self.kinds) != len(self.formulas):
            raise InputError(f"{len(self.formulas)} formulas need as many kinds, not {len(self.kinds)}; give one each")
        if shapes != wanted or self.fractions.shape != (atoms, 3) or not (inside and ends):
            raise InputError("the arrays of these polymorphs do not fit together; see the attributes of Polymorphs")

    def __len__(self) -> int:
        return len(self.composition)

    def counts(self, window: float = 0.05) -> IntArray:
        """(C,) how many structures a composition has at most so many eV/atom above its lowest, itself included.

        Raises:
            InputError: where the window is negative or no number.
        """
        if not window >= 0:
            raise InputError(f"the window is {window} but should be an energy in eV/atom of at least 0; give e.g. 0.05")
        return np.bincount(self.composition[self.energy <= window], minlength=len(self.formulas))

    def volumes(self) -> FloatArray:
        """(S,) Å³ per atom."""
        volumes: FloatArray = np.abs(np.linalg.det(self.cells)) / np.diff(self.offsets)
        return volumes

    def to_atoms(self, rows: Iterable[int] | None = None) -> list[Atoms]:
        """The structures, or those of some rows; ``info`` has formula, prototype and energy above the lowest, eV/atom.

        Raises:
            IndexError: where there is no such row.
        """
        found = []
        known = range(len(self))
        for row in known if rows is None else [known[row] for row in rows]:
            here = slice(*self.offsets[[row, row + 1]].tolist())
            numbers, places = self.numbers[here], self.fractions[here]
            info = {
                "formula": self.formulas[self.composition[row]],
                "prototype": self.prototypes[row],
                "energy_above_lowest": float(self.energy[row]),
            }
            found.append(Atoms(numbers, scaled_positions=places, cell=self.cells[row], pbc=True, info=info))
        return found


def write_polymorphs(path: Path, polymorphs: Polymorphs) -> None:
    """Write atomically, as compressed npz of short numbers.

    Raises:
        OSError: what the disk said.
    """
    labels, label = np.unique(np.array(polymorphs.prototypes, dtype=np.str_), return_inverse=True)
    kinds, kind = np.unique(np.array(polymorphs.kinds, dtype=np.str_), return_inverse=True)
    arrays: dict[str, Any] = {
        "formulas": np.array(polymorphs.formulas, dtype=np.str_),
        "kinds": kinds,
        "kind": kind.astype(np.int16),
        "composition": polymorphs.composition.astype(np.int16),
        "energy": polymorphs.energy.astype(np.float64),
        "labels": labels,
        "label": label.astype(np.int16),
        "cells": polymorphs.cells.astype(np.float32),
        "sizes": np.diff(polymorphs.offsets).astype(np.int16),
        "numbers": polymorphs.numbers.astype(np.int16),
        "fractions": polymorphs.fractions.astype(np.float32),
    }
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, format=np.array(FORMAT), **arrays)


def read_polymorphs(path: str | Path) -> Polymorphs:
    """What :func:`write_polymorphs` wrote.

    Raises:
        InputError: where the file is missing, broken or of another format.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if int(arrays["format"]) != FORMAT:
            raise InputError(f"{path} has format {int(arrays['format'])} but {FORMAT} is read; write it again")
        return Polymorphs(
            tuple(arrays["formulas"].tolist()),
            tuple(arrays["kinds"][arrays["kind"]].tolist()),
            arrays["composition"].astype(np.int64),
            arrays["energy"].astype(np.float64),
            tuple(arrays["labels"][arrays["label"]].tolist()),
            arrays["cells"].astype(np.float64),
            np.concatenate([[0], np.cumsum(arrays["sizes"], dtype=np.int64)]),
            arrays["numbers"].astype(np.int64),
            arrays["fractions"].astype(np.float64),
        )
    except InputError:
        raise
    except (OSError, KeyError, ValueError, TypeError, EOFError, IndexError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is no file of polymorphs ({error}); give one that write_polymorphs wrote") from None


@lru_cache(maxsize=1)
def bundled() -> Polymorphs:
    """The set that comes with the package: made up, from a model of soft charged ions; see bundle/README.md.

    >>> polymorphs = bundled()
    >>> row = polymorphs.formulas.index("NaCl")
    >>> polymorphs.kinds[row], polymorphs.prototypes[polymorphs.composition.tolist().index(row)]
    ('AX', 'AB_cF8_225_a_b')
    """
    return read_polymorphs(BUNDLE)
