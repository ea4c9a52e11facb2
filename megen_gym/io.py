"""Structures from and to files: XYZ, extended XYZ, CIF, VASP, ASE trajectories and ASE databases.

ASE reads and writes; this module adds what a user needs to trust the result: every structure is checked, a refusal
names the file and the structure, and files are written wholly or not at all.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms

from megen_gym.errors import InputError
from megen_gym.runs import append_bytes, atomic, write_text
from megen_gym.structure import StructureBatch

CLOSEST = 0.5
"""Å; atoms closer than this are one atom written twice or a corrupt file."""

VACUUM = 10.0
"""Å; empty space around a cluster in file formats that need a cell."""

DENSE = 500
"""Structures up to this size are checked by all pairs, larger ones by a neighbour list."""

POSCAR, CIF = "POSCAR_{:04d}", "structure_{:04d}.cif"
"""Names of the files that go one by one into a folder."""

Structures = StructureBatch | Sequence[Atoms]
Info = Mapping[str, Sequence[Any]]
"""Values by name, one per structure."""

FORMATS = {
    ".xyz": "extxyz", ".extxyz": "extxyz", ".xyz.gz": "extxyz", ".extxyz.gz": "extxyz", ".cif": "cif", ".vasp": "vasp",
    ".poscar": "vasp", ".traj": "traj", ".db": "db",
}  # fmt: skip
"""ASE's name of the format by the end of the file name; files called POSCAR* and CONTCAR* are VASP's."""


def file_format(path: str | Path) -> str | None:
    """ASE's name of the format of `path`, None if it is none of ours.

    >>> file_format("runs/a/structures_eval.extxyz.gz"), file_format("POSCAR_0001"), file_format("notes.md")
    ('extxyz', 'vasp', None)
    """
    name = Path(path).name.lower()
    if name.startswith(("poscar", "contcar")):
        return "vasp"
    return next((kind for end, kind in FORMATS.items() if name.endswith(end)), None)


def energy_of(atoms: Atoms) -> float:
    """The energy stored with a structure (info or attached results), eV; NaN if there is none."""
    results = atoms.calc.results if atoms.calc is not None else {}
    return float(atoms.info.get("energy", results.get("energy", np.nan)))


def fault(atoms: Atoms) -> str | None:
    """What is wrong with a structure, as the end of a sentence; None if nothing is.

    No atoms, an element that is no element, positions or a cell that are not finite, a periodic cell without volume,
    atoms closer than 0.5 Å (periodic images included).
    """
    if not len(atoms):
        return "has no atoms"
    if (atoms.numbers <= 0).any():
        return f"has an atom {int(np.argmax(atoms.numbers <= 0))} of the unknown element X"
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        return "has positions or cell vectors that are NaN or infinite"
    if atoms.pbc.any() and np.linalg.matrix_rank(atoms.cell.array[atoms.pbc]) < atoms.pbc.sum():
        return "is periodic along cell vectors that span no volume"
    if pairs := _close_pairs(atoms):
        distance, i, j = min(pairs)
        return f"has atoms {i} and {j} only {distance:.2f} Å apart (closer than {CLOSEST} Å)"
    return None


def _close_pairs(atoms: Atoms) -> list[tuple[float, int, int]]:
    """Distance (Å) and indices of atoms closer than `CLOSEST`.

    Where the lattice planes lie more than twice that apart, so short a vector has fractional coordinates below 1/2: the
    wrapped difference is the shortest one, exactly, in any cell.
    """
    periodic = bool(atoms.pbc.any())
    cell = np.asarray(atoms.cell.complete()) if periodic else np.eye(3)
    inverse = np.linalg.inv(cell)
    narrow = periodic and 1 / np.linalg.norm(inverse, axis=0)[atoms.pbc].max() <= 2 * CLOSEST
    if len(atoms) > DENSE or narrow:
        from ase.neighborlist import neighbor_list

        first, second, distance = neighbor_list("ijd", atoms, CLOSEST)  # type: ignore[no-untyped-call]
        return list(zip(distance.tolist(), first.tolist(), second.tolist(), strict=True))
    first, second = np.triu_indices(len(atoms), 1)
    delta = atoms.positions[first] - atoms.positions[second]
    if periodic:
        fractional = delta @ inverse
        delta = (fractional - np.round(fractional) * atoms.pbc) @ cell
    distance = np.linalg.norm(delta, axis=1)
    near = np.flatnonzero(distance < CLOSEST)
    return list(zip(distance[near].tolist(), first[near].tolist(), second[near].tolist(), strict=True))


def read_structures(path: str | Path, *, check: bool = True, tail: Literal["refuse", "drop"] = "refuse") -> list[Atoms]:
    """All structures of a file, or of the structure files of a folder (sorted by name, not recursive).

    Args:
        path: ``.xyz``, ``.extxyz`` (also ``.gz``), ``.cif``, POSCAR/CONTCAR/``.vasp``, ``.traj``, ASE ``.db``, or a
            folder.
        check: Refuse structures that have a :func:`fault`.
        tail: What to do with an incomplete last structure of an (ext)xyz file that is still being written.

    Raises:
        InputError: naming the file and the structure, if anything is missing, empty, corrupt or faulty.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith(".") and file_format(p))
        if not files:
            raise InputError(f"the folder {path} holds no structure file; expected {', '.join(FORMATS)} or POSCAR*")
        return [atoms for file in files for atoms in read_structures(file, check=check, tail=tail)]
    if not path.exists():
        raise InputError(f"the file {path} does not exist; give an existing structure file or folder")
    kind = file_format(path)
    if kind is None:
        raise InputError(f"the file {path} has no known ending; expected {', '.join(FORMATS)} or a name POSCAR*")
    if path.stat().st_size == 0:
        raise InputError(f"the file {path} is empty; expected at least one structure")
    structures = _read_xyz(path, tail) if kind == "extxyz" else list(_read_ase(path, kind))
    if not structures and tail == "refuse":
        raise InputError(f"the file {path} holds no structure; expected at least one")
    for index, atoms in enumerate(structures if check else ()):
        if (problem := fault(atoms)) is not None:
            raise InputError(f"structure {index} of {path} {problem}; repair or remove it")
    return structures


def _rows(path: Path) -> Iterator[Atoms]:
    import ase.db

    for row in ase.db.connect(path).select():  # type: ignore[no-untyped-call]
        atoms = row.toatoms()
        atoms.info |= row.key_value_pairs
        yield atoms


def _read_ase(path: Path, kind: str) -> Iterator[Atoms]:
    from ase.io import iread

    index = 0
    try:
        for atoms in _rows(path) if kind == "db" else iread(path, ":", format=kind):
            yield atoms
            index += 1
    except Exception as error:
        raise InputError(f"structure {index} of {path} cannot be read as {kind} ({_brief(error)}); repair it") from None


def _brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is no complete text file ({_brief(error)}); restore it") from None


def _frames(text: str, name: str | Path, tail: str) -> list[str]:
    """Cut the text of an (ext)xyz file into its structures."""
    lines, at = text.splitlines(keepends=True), 0
    frames: list[str] = []
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        where = f"structure {len(frames)} of {name} (line {at + 1})"
        end = at + 2 + int(lines[at]) if lines[at].strip().isdigit() else 0
        if tail == "drop" and (end > len(lines) or (at + 2 >= len(lines) and not lines[-1].endswith("\n"))):
            break
        if not end:
            raise InputError(f"{where} begins with {lines[at].strip()[:40]!r}; expected the number of atoms; repair it")
        if end > len(lines):
            found = max(len(lines) - at - 2, 0)
            raise InputError(f"{where} has {found} of {end - at - 2} atoms; the file was cut short, restore it")
        if tail == "drop" and end == len(lines) and not lines[-1].endswith("\n"):
            break
        frames.append("".join(lines[at:end]).removesuffix("\n") + "\n")
        at = end
    return frames


def _read_xyz(path: Path, tail: str) -> list[Atoms]:
    from ase.io.extxyz import read_xyz

    frames = _frames(_read_text(path), path, tail)
    try:
        return list(read_xyz(StringIO("".join(frames)), slice(None))) if frames else []
    except Exception:
        for index, frame in enumerate(frames):
            try:
                list(read_xyz(StringIO(frame), slice(None)))
            except Exception as error:
                hint = f"unknown element {error}" if isinstance(error, KeyError) else _brief(error)
                raise InputError(f"structure {index} of {path} cannot be read ({hint}); repair or remove it") from None
        raise


def prepared(structures: Structures, info: Info | None = None) -> list[Atoms]:
    """Copies with `info` merged in and only energy and forces kept of the results; the input is not touched.

    Raises:
        InputError: if `info` does not have one value per structure.
    """
    from ase.calculators.singlepoint import SinglePointCalculator

    given = structures.to_atoms() if isinstance(structures, StructureBatch) else list(structures)
    for name, values in (info or {}).items():
        if len(values) != len(given):
            raise InputError(f"info {name!r} has {len(values)} values for {len(given)} structures; give one for each")
    copies = []
    for row, atoms in enumerate(given):
        copy = atoms.copy()  # type: ignore[no-untyped-call]
        copy.info |= {name: _plain(values[row]) for name, values in (info or {}).items()}
        if isinstance(atoms.calc, SinglePointCalculator):
            copy.info.setdefault("energy", energy_of(atoms))
            if "forces" in atoms.calc.results:
                copy.calc = SinglePointCalculator(copy, forces=atoms.calc.results["forces"])  # type: ignore[no-untyped-call]
        if not np.isfinite(copy.info.get("energy", 0.0)):
            del copy.info["energy"]
        copies.append(copy)
    return copies


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _xyz_text(structures: Sequence[Atoms]) -> str:
    from ase.io.extxyz import write_xyz

    text = StringIO()
    write_xyz(text, structures)
    return text.getvalue()


def write_structures(path: str | Path, structures: Structures, info: Info | None = None) -> Path:
    """Write extended XYZ (``.xyz``, ``.extxyz``, each also with ``.gz``), atomically.

    Args:
        path: The file; an existing one is replaced.
        structures: A batch or a list of ``ase.Atoms``.
        info: Values per structure for the comment line, e.g. ``{"energy": [...]}`` in eV.
    """
    path = Path(path)
    if file_format(path) != "extxyz":
        raise InputError(f"cannot write structures to {path}; expected a name that ends in .xyz, .extxyz or .extxyz.gz")
    text = _xyz_text(prepared(structures, info)).encode()
    with atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def append_structures(path: str | Path, structures: Structures, info: Info | None = None) -> None:
    """Append to an extended XYZ file; when the disk is full the file keeps its old content."""
    append_bytes(path, _xyz_text(prepared(structures, info)).encode())


def truncate_structures(path: str | Path, step: int) -> None:
    """Drop the structures whose info ``step`` lies after `step`, and an incomplete last one, as on resuming a run."""
    path = Path(path)
    if path.exists():
        frames = _frames(_read_text(path), path, "drop")
        found = [re.search(r"\bstep=(\d+)", frame.split("\n", 2)[1]) for frame in frames]
        write_text(path, "".join(f for f, m in zip(frames, found, strict=True) if m is None or int(m[1]) <= step))


def boxed(atoms: Atoms, vacuum: float = VACUUM) -> Atoms:
    """A periodic copy: centred with `vacuum` (Å) on every side along the directions that were not periodic."""
    copy: Atoms = atoms.copy()  # type: ignore[no-untyped-call]
    if not copy.pbc.all():
        copy.center(vacuum=vacuum, axis=tuple(np.flatnonzero(~copy.pbc).tolist()))  # type: ignore[no-untyped-call]
        copy.pbc = True
    return copy


def check_folder(folder: str | Path, pattern: str, count: int) -> None:
    """Refuse a folder where numbered files of an earlier export would remain among `count` new ones."""
    new = {pattern.format(index) for index in range(count)}
    old = {path.name for path in Path(folder).glob(pattern.format(0).replace("0000", "[0-9]*"))} - new
    if old:
        raise InputError(
            f"the folder {folder} holds {len(old)} older files beyond the {count} to be written, "
            f"e.g. {min(old)}; remove them or choose another folder"
        )


def _write_folder(
    folder: str | Path, structures: Structures, info: Info | None, pattern: str, **options: Any
) -> list[Path]:
    """One file per structure, called ``pattern.format(index)``."""
    from ase.io import write

    folder, copies = Path(folder), prepared(structures, info)
    check_folder(folder, pattern, len(copies))
    paths = [folder / pattern.format(index) for index in range(len(copies))]
    for path, atoms in zip(paths, copies, strict=True):
        box = boxed(atoms)
        with atomic(path) as temporary:
            write(temporary, box, **options)
            if options["format"] == "vasp":
                temporary.write_text(f"{_label(atoms)}\n{temporary.read_text().partition(chr(10))[2]}")
    return paths


def _label(atoms: Atoms) -> str:
    energy = energy_of(atoms)
    formula: str = atoms.get_chemical_formula()  # type: ignore[no-untyped-call]
    return formula + (f" energy={energy:.6f} eV" if np.isfinite(energy) else "")


def write_poscars(folder: str | Path, structures: Structures, info: Info | None = None) -> list[Path]:
    """VASP 5 files ``POSCAR_0000``...: atoms sorted by element, clusters centred in a box with 10 Å around them."""
    return _write_folder(folder, structures, info, POSCAR, format="vasp", sort=True, vasp5=True)


def write_cifs(folder: str | Path, structures: Structures, info: Info | None = None) -> list[Path]:
    """CIF files ``structure_0000.cif``...; clusters as in :func:`write_poscars`."""
    return _write_folder(folder, structures, info, CIF, format="cif")


def write_db(path: str | Path, structures: Structures, info: Info | None = None, *, run: str = "") -> int:
    """Append to an ASE database (SQLite), in one transaction; what is already there of the same `run` is left out.

    Args:
        path: File that ends in ``.db``; made if missing.
        run: Id of the run, stored as the key ``run``.

    Returns:
        Number of rows added.
    """
    import sqlite3

    import ase.db
    from ase.calculators.singlepoint import SinglePointCalculator

    path = Path(path)
    if path.suffix != ".db":
        raise InputError(f"cannot write a database to {path}; expected a name that ends in .db")
    path.parent.mkdir(parents=True, exist_ok=True)
    added = 0
    try:
        with ase.db.connect(path) as database:  # type: ignore[no-untyped-call]
            known = {row.get("structure") for row in database.select(run=run, columns=["id", "key_value_pairs"])}
            for atoms in prepared(structures, info):
                content = atoms.numbers.tobytes() + (np.round(atoms.positions, 4) + 0.0).tobytes()
                key = "h" + hashlib.sha256(content).hexdigest()[:16]
                if key in known:
                    continue
                known.add(key)
                energy, forces = atoms.info.pop("energy", None), atoms.calc.results["forces"] if atoms.calc else None
                atoms.calc = None
                if energy is not None:
                    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)  # type: ignore[no-untyped-call]
                pairs = {k: v for k, v in atoms.info.items() if _storable(k, v)}
                database.write(atoms, **(pairs | {"run": run, "structure": key}))
                added += 1
    except (sqlite3.DatabaseError, KeyError, TypeError) as error:
        if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
            raise OSError(28, "No space left on device", str(path)) from None
        raise InputError(f"{path} is no ASE database ({_brief(error)}); choose another file") from None
    return added


def _storable(name: str, value: Any) -> bool:
    """Whether ASE accepts a key-value pair; text that looks like a number it refuses."""
    from ase.db.core import check

    try:
        check({name: value})  # type: ignore[no-untyped-call]
    except ValueError:
        return False
    return True
