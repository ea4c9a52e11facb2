"""Molecules to train on: read, checked, in the units that were asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from megen_gym.agents.gschnet.molecules import NO_PBC, Molecules
from megen_gym.agents.gschnet.preparing import distances
from megen_gym.agents.gschnet.qm9 import ALL, from_qm9, is_qm9, uncharacterized
from megen_gym.agents.gschnet.sources import Source, from_collections, from_database, from_structures, numbers_in
from megen_gym.agents.gschnet.storage import nearby
from megen_gym.agents.gschnet.units import factor, parse
from megen_gym.errors import InputError
from megen_gym.io import CLOSEST
from megen_gym.structure import BoolArray, FloatArray, IntArray

SAID = 5
"""Faults that are said one by one."""

_LOG = logging.getLogger(__name__)


def load(
    path: str | Path | None,
    atom_types: Sequence[int],
    properties: Sequence[str] = (),
    property_units: Mapping[str, str] | None = None,
    distance_unit: str = "Ang",
    remove_uncharacterized: bool | str | Path = True,
    data_workdir: str | Path | None = None,
    progress: bool = True,
) -> Molecules:
    """Read molecules.

    A structure that cannot be used (no atoms, positions that are not finite, atoms closer than 0.5 Å, a property that
    is missing or not finite) is left out, and said.

    Args:
        path: An ASE database (SchNetPack's, whose metadata say the units, or a plain one); extended XYZ and anything
            else that :func:`megen_gym.io.read_structures` reads; QM9 as SchNetPack's ``qm9.db`` or as the archive or
            folder of ``dsgdb9nsd_*.xyz``. None for the molecules that come with ASE.
        atom_types: Atomic numbers that may occur.
        properties: Names of those to read.
        property_units: Unit that each should have: converted where the file says its own, else taken to be the file's.
        distance_unit: Unit of length of a file that does not say it; the result is in Å.
        remove_uncharacterized: Leave out the molecules of QM9 that did not stay themselves: whether to, by the list
            ``uncharacterized.txt`` beside the data, or the path of that list.
        data_workdir: Folder on fast storage to which the file is copied while it is read.
        progress: Show a bar.

    Raises:
        InputError: for a file that cannot be read, elements outside `atom_types`, properties or units that are missing
            (those that are there are listed), mixed periodicity, and data without a single usable molecule.
    """
    types = sorted({int(number) for number in atom_types})
    if not types or types[0] < 1 or types[-1] >= len(chemical_symbols):
        raise InputError(f"atom_types is {list(atom_types)}; give atomic numbers such as 1,6,7,8,9")
    where = "ASE's collections" if path is None else str(path)
    source = from_collections(types) if path is None else _read(Path(path), properties, data_workdir, progress)
    found = _converted(source, where, properties, property_units or {})
    rows = np.array(source.rows, dtype=np.int64)
    good, faults = _sound(source, found, rows)
    if path is not None:
        good &= ~_outside_qm9(Path(path), rows, remove_uncharacterized)
    faults = source.faults + faults
    if not good.any():
        raise InputError(f"{where} holds no molecule that can be used; {faults[0] if faults else 'give at least one'}")
    if faults:
        more = f" and {len(faults) - SAID} more" if len(faults) > SAID else ""
        _LOG.warning(f"{len(faults)} structures of {where} are left out: {'; '.join(faults[:SAID])}{more}")
    molecules = _built(source, found, rows, good, where, distance_unit)
    _check_types(molecules, types, where)
    return _apart(molecules, where)


def available(path: str | Path | None) -> dict[str, str]:
    """Properties of a file by name, with their units; "" where the file does not know it.

    Raises:
        InputError: for a file that cannot be read.
    """
    if path is None:
        return {}
    source = _read(Path(path), (), None, False)
    return {name: source.units.get(name, "") for name in source.names}


def _read(path: Path, wanted: Sequence[str], workdir: str | Path | None, progress: bool) -> Source:
    if not path.exists():
        raise InputError(f"the file {path} does not exist; give an existing file or folder of molecules")
    with nearby(path, workdir) as local:
        if is_qm9(path):
            return from_qm9(local, wanted, progress)
        if path.suffix == ".db" and path.is_file() and path.stat().st_size:
            return from_database(local, wanted, progress)
        return from_structures(local, wanted)


def _converted(
    source: Source, where: str, properties: Sequence[str], wanted: Mapping[str, str]
) -> dict[str, tuple[list[FloatArray | None], str]]:
    """The values of each property in the unit that was asked for, None where there are none; and that unit."""
    there = ", ".join(f"{name} [{source.units.get(name) or 'unit not said'}]" for name in source.names) or "none at all"
    if missing := [name for name in (*properties, *wanted) if name not in source.names]:
        raise InputError(f"{where} has no property {', '.join(dict.fromkeys(missing))}; it has {there}")
    if silent := [name for name in properties if name not in source.units and name not in wanted]:
        example = json.dumps(dict.fromkeys(silent, "eV"))
        raise InputError(
            f"{where} does not say the unit of {', '.join(silent)} (it has {there}); "
            f"say it: --property_units '{example}', or \"1\" for numbers without one"
        )
    found = {}
    for name in properties:
        own = source.units.get(name, wanted.get(name))
        unit = wanted.get(name, own) or ""
        scale = factor(own, unit, f"the property {name} of {where}")
        values = [numbers_in(value) for value in source.values[name]]
        sizes = {len(value) for value in values if value is not None}
        if len(sizes) > 1:
            raise InputError(
                f"the property {name} of {where} has {min(sizes)} to {max(sizes)} numbers per molecule; "
                "give one with the same number for all"
            )
        found[name] = [None if value is None else value * scale for value in values], unit
    return found


def _sound(
    source: Source, found: Mapping[str, tuple[list[FloatArray | None], str]], rows: IntArray
) -> tuple[BoolArray, list[str]]:
    """Which molecules can be used, and what is wrong with the others."""
    count = np.array([len(numbers) for numbers in source.numbers], dtype=np.int64)
    of = np.repeat(np.arange(len(count)), count)
    numbers = np.concatenate([*source.numbers, np.zeros(0, dtype=np.int64)])
    places = np.concatenate([*source.positions, np.zeros((0, 3))])
    cells = np.array(source.cells).reshape(-1, 3, 3)
    flat = np.array(source.pbc, dtype=bool).reshape(-1, 3).any(1)
    broken = {"has no atoms": count == 0}
    broken["has positions or a cell that are NaN or infinite"] = (
        np.bincount(of, ~np.isfinite(places).all(1), len(count)) > 0
    ) | ~np.isfinite(cells).all((1, 2))
    broken["has an atom of no known element"] = (
        np.bincount(of, (numbers < 1) | (numbers >= len(chemical_symbols)), len(count)) > 0
    )
    volume = np.abs(np.linalg.det(np.where(np.isfinite(cells), cells, 0)))
    broken["is periodic in a cell without volume"] = flat & (volume < 1e-6)
    for name, (values, _) in found.items():
        broken[f"has no finite {name}"] = np.array([value is None for value in values], dtype=bool)
    good, faults = np.ones(len(count), dtype=bool), []
    for reason, which in broken.items():
        faults += [f"structure {row} {reason}" for row in rows[which & good].tolist()]
        good &= ~which
    return good, faults


def _built(
    source: Source,
    found: Mapping[str, tuple[list[FloatArray | None], str]],
    rows: IntArray,
    good: BoolArray,
    where: str,
    distance_unit: str,
) -> Molecules:
    kept = np.flatnonzero(good).tolist()
    kinds = {source.pbc[index] for index in kept}
    if len(kinds) > 1:
        raise InputError(f"the structures of {where} differ in their periodicity; make one file per kind")
    pbc = kinds.pop()
    length = factor(source.distance_unit or distance_unit, "Ang", f"the distance unit of {where}")
    if source.distance_unit and parse(distance_unit)[0] != 1 and length != parse(distance_unit)[0]:
        _LOG.warning(f"{where} says that its lengths are in {source.distance_unit}; distance_unit is not needed for it")
    properties = {name: np.array([values[index] for index in kept]) for name, (values, _) in found.items()}
    return Molecules.from_arrays(
        np.array([len(source.numbers[index]) for index in kept]),
        np.concatenate([source.numbers[index] for index in kept]),
        np.concatenate([source.positions[index] for index in kept]) * length,
        {name: values[:, 0] if values.shape[1] == 1 else values for name, values in properties.items()},
        {name: unit for name, (_, unit) in found.items()},
        rows[good],
        np.array([source.cells[index] for index in kept]) * length if pbc != NO_PBC else None,
        pbc,
    )


def _check_types(molecules: Molecules, types: Sequence[int], where: str) -> None:
    present = np.setdiff1d(np.unique(molecules.numbers), [0, *types])
    if len(present):
        counts = [(molecules.numbers == number).any(1).sum() for number in present]
        text = ", ".join(
            f"{chemical_symbols[number]} ({count} molecules)" for number, count in zip(present, counts, strict=True)
        )
        raise InputError(
            f"{where} holds elements that are not among atom_types {','.join(map(str, types))}: {text}; "
            f"add {','.join(map(str, present))} to --atom_types, or remove those molecules"
        )


def _apart(molecules: Molecules, where: str) -> Molecules:
    """Without structures in which two atoms are one."""
    step = max(1, (1 << 21) // molecules.numbers.shape[1] ** 2)
    starts = range(0, len(molecules), step)
    closest = np.concatenate(
        [distances(molecules[start : start + step], CLOSEST).min((1, 2)) for start in starts] or [np.zeros(0)]
    )
    close = closest < CLOSEST
    if close.all():
        raise InputError(f"{where} holds no molecule without atoms closer than {CLOSEST} Å; check its distance unit")
    if close.any():
        rows = ", ".join(map(str, molecules.rows[close][:SAID].tolist())) + (" ..." if close.sum() > SAID else "")
        _LOG.warning(f"{close.sum()} structures of {where} have atoms closer than {CLOSEST} Å, left out (rows {rows})")
    return molecules[~close] if close.any() else molecules


def _outside_qm9(path: Path, rows: IntArray, choice: bool | str | Path) -> BoolArray:
    """Which rows are uncharacterised molecules of QM9, where the data are all of QM9 or a list was given."""
    if choice is False or (choice is True and not is_qm9(path) and len(rows) != ALL):
        return np.zeros(len(rows), dtype=bool)
    listed = uncharacterized(choice, path)
    if listed is None:
        _LOG.warning(
            f"there is no list uncharacterized.txt beside {path}, so no uncharacterised molecule is removed; "
            "put it there, or say remove_uncharacterized=False"
        )
    gone = np.isin(rows, sorted(listed or ()))
    if gone.any():
        _LOG.info(f"{gone.sum()} uncharacterised molecules of {path} are left out")
    return np.asarray(gone)
