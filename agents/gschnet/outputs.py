"""Generated molecules on disk: an ASE database that SchNetPack and this library read again, or extended XYZ."""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from megen_gym.agents.gschnet.sources import DISTANCE, UNITS, UNITS_INFO
from megen_gym.agents.gschnet.units import factor
from megen_gym.errors import InputError
from megen_gym.io import append_structures, file_format, write_structures
from megen_gym.runs import atomic, make_folder
from megen_gym.structure import FloatArray

FOLDER = "generated_molecules"


def output_path(run: str | Path, outputfile: str | int | None = None) -> Path | None:
    """Where generated molecules go; nothing is made yet.

    Args:
        run: Run folder; the file lies in its ``generated_molecules``.
        outputfile: A name that ends in ``.db`` (added where there is no ending) or in ``.xyz`` or ``.extxyz``, also
            ``.gz``; or a number. A path with a folder is taken as it is. None for the next free number.

    Returns:
        None where :func:`write_molecules` is to choose the next free number.

    Raises:
        InputError: for another ending.
    """
    if outputfile is None or not str(outputfile).strip():
        return None
    path = Path(str(outputfile).strip())
    path = path if path.is_absolute() or len(path.parts) > 1 else Path(run) / FOLDER / path
    if path.suffix == "" or path.name.isdecimal():
        path = path.with_name(path.name + ".db")
    if path.suffix != ".db" and file_format(path) != "extxyz":
        raise InputError(
            f"cannot write molecules to {outputfile}; expected a number or a name that ends in .db or .xyz"
        )
    if path.is_dir():
        raise InputError(f"cannot write molecules to {path}, which is a folder; give another outputfile")
    return path


def write_molecules(
    run: str | Path,
    structures: Sequence[Atoms],
    properties: Mapping[str, ArrayLike] | None = None,
    units: Mapping[str, str] | None = None,
    conditions: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    outputfile: str | int | None = None,
) -> Path:
    """Write molecules, or append them to a file that is there.

    A database gets SchNetPack's layout: properties as arrays in the data of each row and, where they are one number, as
    key-value pairs as well; in the metadata the units, and for the rows of each call (``"0-99"``) the conditions and
    settings. It is written wholly or not at all.

    Args:
        run: Run folder, see :func:`output_path`.
        structures: At least one.
        properties: (M,) or (M, K) each, e.g. ``{"log_prob": ...}``.
        units: Of those properties; none by default.
        conditions: Target values of these molecules, by name.
        settings: What else is to be remembered (JSON): atom_types, grid_spacing, temperature_term, seed, ...
        outputfile: See :func:`output_path`.

    Returns:
        The file.

    Raises:
        InputError: without molecules, for properties of another length, and for a file that cannot be appended to.
        OSError: what the disk said; a file that was there is as it was.
    """
    columns = _columns(structures, properties or {})
    own = {name: (units or {}).get(name, "") for name in columns}
    call = {"conditions": _json(conditions or {}), "settings": _json(settings or {})}
    path = output_path(run, outputfile)
    make_folder(Path(run) / FOLDER if path is None else path.parent)
    if path is None or path.suffix == ".db":
        return _database(Path(run) / FOLDER, path, structures, columns, own, call)
    info: dict[str, list[Any]] = {name: list(values) for name, values in columns.items()}
    info |= {f"condition_{name}": [value] * len(structures) for name, value in call["conditions"].items()}
    info |= {UNITS_INFO: [json.dumps(own)] * len(structures)}
    if not path.exists():
        return write_structures(path, structures, info)
    if path.suffix == ".gz":
        raise InputError(f"{path} exists and is compressed, so that nothing can be appended; give another outputfile")
    append_structures(path, structures, info)
    return path


def metadata_of(path: str | Path) -> dict[str, Any]:
    """Metadata of a database: units, and by range of rows (``"0-99"``) what was asked for.

    Raises:
        InputError: for a file that is no database.
    """
    import sqlite3

    import ase.db

    path = Path(path)
    if not path.is_file():
        raise InputError(f"the database {path} does not exist; give one that was written")
    try:
        with ase.db.connect(path, use_lock_file=False) as database:  # type: ignore[no-untyped-call]
            database.count()
            return dict(database.metadata)
    except (sqlite3.DatabaseError, OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is no ASE database ({type(error).__name__}: {error}); give another file") from None


def _columns(structures: Sequence[Atoms], properties: Mapping[str, ArrayLike]) -> dict[str, FloatArray]:
    if not len(structures):
        raise InputError("there are no molecules to write; generate at least one")
    found: dict[str, FloatArray] = {name: np.asarray(values, dtype=np.float64) for name, values in properties.items()}
    for name, values in found.items():
        if len(values) != len(structures) or values.ndim > 2:
            raise InputError(
                f"the property {name} has the shape {values.shape} for {len(structures)} molecules; give one each"
            )
    return found


def _database(
    folder: Path,
    path: Path | None,
    structures: Sequence[Atoms],
    columns: dict[str, FloatArray],
    units: dict[str, str],
    call: dict[str, Any],
) -> Path:
    """Appended in one transaction, or a new file that gets its name when it is complete."""
    if path is not None and path.exists() and path.stat().st_size:
        metadata_of(path)
        _append(path, structures, columns, units, call)
        return path
    temporary = (folder if path is None else path.parent) / f".tmp-{os.getpid()}-{os.urandom(4).hex()}.db"
    target = None
    try:
        _append(temporary, structures, columns, units, call)
        target = _reserved(folder) if path is None else path
        with atomic(target) as final:
            os.replace(temporary, final)
    except BaseException:
        if target is not None and target.exists() and not target.stat().st_size:
            target.unlink()
        raise
    finally:
        for name in (temporary.name, f"{temporary.name}-journal"):
            temporary.with_name(name).unlink(missing_ok=True)
    return target


def _reserved(folder: Path) -> Path:
    """The next free number, made so that no other process takes it."""
    taken = [int(file.stem) for file in folder.glob("*.db") if file.stem.isdecimal()]
    number = max(taken, default=0) + 1
    while True:
        path = folder / f"{number}.db"
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            number += 1
            continue
        return path


def _append(
    path: Path,
    structures: Sequence[Atoms],
    columns: dict[str, FloatArray],
    units: dict[str, str],
    call: dict[str, Any],
) -> None:
    import sqlite3

    import ase.db

    try:
        with ase.db.connect(path, use_lock_file=False) as database:  # type: ignore[no-untyped-call]
            database.connection.execute("BEGIN IMMEDIATE")
            database.managed_connection = partial(database.managed_connection, commit_frequency=1 << 62)
            _add(database, path, structures, columns, units, call)
    except sqlite3.DatabaseError as error:
        if "full" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from None
        raise InputError(f"nothing can be added to {path} ({error}); give another outputfile") from None


def _add(
    database: Any,
    path: Path,
    structures: Sequence[Atoms],
    columns: dict[str, FloatArray],
    units: dict[str, str],
    call: dict[str, Any],
) -> None:
    count = database.count()
    metadata = dict(database.metadata)
    length = factor("Ang", metadata.get(DISTANCE) or "Ang", f"the distance unit of {path}")
    known = dict(metadata.get(UNITS) or {})
    scale = {key: factor(unit, known.get(key, unit), f"the property {key}") for key, unit in units.items()}
    widths = _widths(database, count, known)
    new = [key for key in units if key not in known]
    for row in list(database.select()) if new and count else []:
        blank = {key: np.full(columns[key].reshape(len(structures), -1).shape[1], np.nan) for key in new}
        database.update(row.id, data=blank | dict(row.data))
    for index, atoms in enumerate(structures):
        data = {key: np.full(width, np.nan) for key, width in widths.items()}
        data |= {key: np.atleast_1d(values[index] * scale[key]) for key, values in columns.items()}
        plain = atoms.copy()  # type: ignore[no-untyped-call]
        plain.info.clear()
        if length != 1:
            plain.set_cell(plain.cell * length)
            plain.positions *= length
        database.write(plain, data=data, key_value_pairs=_pairs(data))
    first = f"{count}-{count + len(structures) - 1}"
    metadata |= {UNITS: known | {key: units[key] for key in new}, first: call["conditions"]}
    metadata |= {DISTANCE: metadata.get(DISTANCE) or "Ang", "atomrefs": metadata.get("atomrefs") or {}}
    metadata["settings"] = dict(metadata.get("settings") or {}) | {first: call["settings"]}
    database.metadata = metadata


def _widths(database: Any, count: int, known: Mapping[str, str]) -> dict[str, int]:
    """Numbers of each property that the rows of a database have."""
    if not count:
        return {}
    data = next(iter(database.select(limit=1))).data
    return {name: len(np.atleast_1d(data[name])) for name in known if name in data}


def _pairs(data: Mapping[str, FloatArray]) -> dict[str, float]:
    """Those that ASE takes as key-value pairs: single finite numbers under names that are not its own."""
    from ase.db.core import check

    found = {}
    for name, values in data.items():
        if values.size == 1 and np.isfinite(values).all():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    check({name: float(values[0])})  # type: ignore[no-untyped-call]
            except ValueError:
                continue
            found[name] = float(values[0])
    return found


def _json(given: Mapping[str, Any]) -> dict[str, Any]:
    """Plain numbers, lists and text.

    Raises:
        InputError: for what JSON cannot hold.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic | np.ndarray):
            return value.tolist()
        if isinstance(value, Path):
            return str(value)
        raise InputError(f"a setting to be stored with molecules is a {type(value).__name__}; give numbers or text")

    found: dict[str, Any] = json.loads(json.dumps(dict(given), default=plain))
    return found
