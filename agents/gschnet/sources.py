"""What a file of molecules holds, as it stands there: ASE databases (SchNetPack's too), anything that ASE reads, and
ASE's own collections."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from megen_gym.agents.gschnet.molecules import Molecules
from megen_gym.agents.gschnet.preparing import connect
from megen_gym.errors import InputError
from megen_gym.io import read_structures
from megen_gym.structure import FloatArray, IntArray

DISTANCE, UNITS = "_distance_unit", "_property_unit_dict"
"""Keys of SchNetPack's metadata."""

UNITS_INFO = "property_units"
"""Key of the units (JSON) in the comment lines of extended XYZ files that this library wrote."""

ASE_UNITS = {"energy": "eV", "free_energy": "eV", "dipole": "eAng"}
"""Results of calculators, whose units ASE fixes."""

SAME = 0.1
"""Å by which the sorted distances between atoms of the same geometry differ at most."""

LARGEST = 30
"""Atoms of the largest molecule taken from ASE's collections."""


@dataclass(eq=False)
class Source:
    """Molecules as a file gives them.

    Attributes:
        numbers: (n,) each.
        positions: (n, 3) each, in the file's unit of length.
        cells: (3, 3) each, in that unit.
        pbc: Periodic axes of each.
        values: By name of the property, what each molecule has; None where it has none.
        names: Of all properties in the file.
        units: Of those properties whose unit the file knows.
        distance_unit: The file's, None where it does not say.
        rows: Number of each molecule in the file.
        faults: A sentence for each row that cannot be read.
    """

    numbers: list[IntArray] = field(default_factory=list)
    positions: list[FloatArray] = field(default_factory=list)
    cells: list[FloatArray] = field(default_factory=list)
    pbc: list[tuple[bool, ...]] = field(default_factory=list)
    values: dict[str, list[Any]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    distance_unit: str | None = None
    rows: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, atoms: Any, row: int, values: Iterable[Any]) -> None:
        """One more molecule (``Atoms`` or a row of a database) with the value of each property."""
        self.numbers.append(np.asarray(atoms.numbers))
        self.positions.append(np.asarray(atoms.positions, dtype=np.float64).reshape(-1, 3))
        self.cells.append(np.asarray(atoms.cell, dtype=np.float64).reshape(3, 3))
        self.pbc.append(tuple(map(bool, atoms.pbc)))
        self.rows.append(row)
        for column, value in zip(self.values.values(), values, strict=True):
            column.append(value)


def from_database(path: Path, wanted: Sequence[str], progress: bool = False) -> Source:
    """An ASE database; SchNetPack's say their units in the metadata and hold properties as arrays in ``data``.

    Args:
        path: Existing SQLite file.
        wanted: Properties to read.
        progress: Show a bar.

    Raises:
        InputError: for a file that is no such database, or has no rows.
    """
    import sqlite3

    import ase.db
    from tqdm import tqdm

    source, names = Source(values={name: [] for name in wanted}), dict[str, None]()
    try:
        with ase.db.connect(path, use_lock_file=False) as database:  # type: ignore[no-untyped-call]
            metadata, count = database.metadata, database.count()
            if not count:
                raise InputError(f"the database {path} has no rows; expected at least one molecule")
            rows = enumerate(tqdm(database.select(), "rows", count, leave=False, disable=not progress))
            for index, row in rows:
                try:
                    present = held(row)
                    source.add(row, index, [present.get(name) for name in wanted])
                except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
                    source.faults.append(f"row {index} cannot be read ({type(error).__name__}: {error})")
                    continue
                if not index:
                    names.update(dict.fromkeys(present))
    except (sqlite3.DatabaseError, OSError, KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as an ASE database ({type(error).__name__}: {error}); restore it"
        ) from None
    _described(source, metadata, names)
    return source


def held(row: Any) -> dict[str, Any]:
    """The properties of a row of a database: its data, its key-value pairs and the results of a calculator."""
    results = {name: row.get(name) for name in ASE_UNITS if row.get(name) is not None}
    return results | dict(row.key_value_pairs) | dict(row.data)


def _described(source: Source, metadata: dict[str, Any], names: Iterable[str]) -> None:
    given = metadata.get(UNITS) or {}
    source.distance_unit = metadata.get(DISTANCE)
    source.units = ASE_UNITS | {name: "" if unit is None else str(unit) for name, unit in given.items()}
    source.names = list(dict.fromkeys([*given, *names]))


def from_structures(path: Path, wanted: Sequence[str]) -> Source:
    """Anything that :func:`megen_gym.io.read_structures` reads; properties are in ``info`` or a calculator's results.

    Raises:
        InputError: for what cannot be read.
    """
    return from_atoms(read_structures(path, check=False), wanted)


def from_atoms(structures: Sequence[Atoms], wanted: Sequence[str]) -> Source:
    """Structures in memory, as :func:`from_structures`."""
    source, names = Source(values={name: [] for name in wanted}), dict[str, None]()
    for row, atoms in enumerate(structures):
        results = atoms.calc.results if atoms.calc is not None else {}
        present = {name: results[name] for name in ASE_UNITS if results.get(name) is not None} | atoms.info
        source.add(atoms, row, [present.get(name) for name in wanted])
        names.update(dict.fromkeys(name for name, value in present.items() if numbers_in(value) is not None))
    given = structures[0].info.get(UNITS_INFO, {}) if structures else {}
    with suppress(ValueError, TypeError):
        given = json.loads(given) if isinstance(given, str) else given
    source.units = ASE_UNITS | (given if isinstance(given, dict) else {})
    source.names = list(names)
    return source


def numbers_in(value: Any) -> FloatArray | None:
    """(K,) finite numbers of a property; None for anything else."""
    if value is None or isinstance(value, str | bytes | bool | np.bool_):
        return None
    try:
        found = np.asarray(value, dtype=np.float64).reshape(-1)
    except (ValueError, TypeError):
        return None
    return found if found.size and np.isfinite(found).all() else None


def from_collections(atom_types: Sequence[int]) -> Source:
    """Real geometries that come with ASE: the molecules of the G2/97 set (Curtiss et al., J. Chem. Phys. 106, 1063
    (1997)), three more, and the parts of the S22 complexes (Jurečka et al., Phys. Chem. Chem. Phys. 8, 1985 (2006)).

    Those of the elements `atom_types` with 2 to 30 atoms, each geometry once.

    Raises:
        InputError: if there is none.
    """
    from ase.build import molecule
    from ase.build.molecule import extra
    from ase.collections import g2, s22

    found = [molecule(name) for name in [*g2.names, *extra]]  # type: ignore[no-untyped-call]
    found = [atoms for atoms in found if set(atoms.numbers.tolist()) <= set(atom_types)]
    found += [part for part in parts_of([s22[name] for name in s22.names]) if set(part.numbers) <= set(atom_types)]
    found = _once([atoms for atoms in found if 1 < len(atoms) <= LARGEST])
    if not found:
        raise InputError(
            f"ASE's collections hold no molecule of the elements {','.join(map(str, atom_types))}; give a file (--data)"
        )
    return from_atoms(found, ())


def parts_of(structures: Sequence[Atoms]) -> list[Atoms]:
    """The molecules that complexes consist of: parts within 1.25 times the sum of the covalent radii."""
    from scipy.sparse.csgraph import connected_components

    molecules = Molecules.from_atoms(structures)
    bonds = connect(molecules, math.inf, True, 1.25)
    found = []
    for atoms, bonded in zip(molecules.to_atoms(), bonds, strict=True):
        label: IntArray = connected_components(bonded[: len(atoms), : len(atoms)])[1]
        found += [atoms[label == part] for part in np.unique(label)]
    return found


def _once(structures: Sequence[Atoms]) -> list[Atoms]:
    """Without geometries that are there already, however they lie."""
    seen: dict[str, list[FloatArray]] = {}
    found = []
    for atoms in structures:
        others = seen.setdefault(atoms.get_chemical_formula(), [])  # type: ignore[no-untyped-call]
        lengths = np.sort(atoms.get_all_distances().ravel())  # type: ignore[no-untyped-call]
        if not any(np.abs(lengths - other).max() < SAME for other in others):
            others.append(lengths)
            found.append(atoms)
    return found
