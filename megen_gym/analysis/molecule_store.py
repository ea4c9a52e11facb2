"""Verdicts on molecules in files: a table that need not be computed twice, ASE databases, and the rows of a split."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from tqdm import tqdm

from megen_gym.analysis.molecule_bonds import BondRules, Reading
from megen_gym.analysis.molecule_identity import SPLITS
from megen_gym.analysis.molecule_rings import element_counts
from megen_gym.analysis.molecule_validity import TIMEOUT, Validity, check
from megen_gym.errors import InputError
from megen_gym.io import write_db
from megen_gym.runs import atomic, write_text
from megen_gym.structure import IntArray

AGAIN = ("timeout", "crash")
"""Reasons that are not taken from a file: another attempt may do better."""


def judge(
    structures: Sequence[Atoms],
    rules: BondRules,
    results: str | Path | None = None,
    *,
    force: bool = False,
    timeout: float | None = TIMEOUT,
    workers: int = 1,
    progress: bool = False,
) -> Validity:
    """The verdict of :func:`~megen_gym.analysis.molecule_validity.check`, taken from a file as far as it has it.

    A molecule is found again by its elements, positions and rules: a file of another data set, or of other rules, does
    no harm, and of a data set that has grown only the new molecules are computed. Periodic structures are refused.

    Args:
        structures: M molecules.
        rules: What counts as valid.
        results: File of :func:`write_results`; one that does not exist is no mistake.
        force: Compute all anew.
        timeout: Seconds per molecule.
        workers: Child processes.
        progress: Show a progress bar.
    """
    known: dict[str, Reading] = {}
    if results is not None and not force and Path(results).exists():
        known = read_results(results)
    names = fingerprints(structures, rules)
    new = [row for row, name in enumerate(names) if name not in known]
    verdict = check(
        [structures[row] for row in new], timeout=timeout, allowed_charges=rules.allowed_charges,
        allow_charged_fragments=rules.allow_charged_fragments, allow_radical_electrons=rules.allow_radical_electrons,
        workers=workers, progress=progress,
    )  # fmt: skip
    computed = dict(zip(new, verdict.readings, strict=True))
    return Validity(tuple(computed[row] if row in computed else known[name] for row, name in enumerate(names)))


def fingerprints(structures: Sequence[Atoms], rules: BondRules) -> list[str]:
    """(M,) short names of the elements and positions (to 1e-6 Å) of molecules, and of the rules."""
    head = repr(rules).encode()
    texts = (
        head + atoms.numbers.astype("<i8").tobytes() + (np.round(atoms.positions, 6) + 0.0).astype("<f8").tobytes()
        for atoms in structures
    )
    return [hashlib.sha256(text).hexdigest()[:20] for text in texts]


def write_results(
    path: str | Path,
    structures: Sequence[Atoms],
    verdict: Validity,
    rules: BondRules,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Path:
    """Write one line per molecule, CSV or (name in .json) JSON: verdict, SMILES, bonds, rings and further columns.

    Args:
        path: File that ends in .csv or .json; an existing one is replaced.
        structures: M molecules.
        verdict: On them.
        rules: Under which it was made.
        columns: (M,) values by name, written between verdict and bonds.

    Raises:
        InputError: for another ending, or columns that do not have one value per molecule.
    """
    path, more = _table_path(path), dict(columns or {})
    for name, values in {"verdict": verdict.readings, **more}.items():
        if len(values) != len(structures):
            raise InputError(f"{name!r} has {len(values)} values for {len(structures)} molecules; give one for each")
    rows = [
        {"row": row, "formula": atoms.get_chemical_formula(), "atoms": len(atoms), "valid": int(reading.valid),  # type: ignore[no-untyped-call]
         "reason": reading.reason, "smiles": reading.smiles or ""}
        | {name: values[row] for name, values in more.items()}
        | {"bonds": " ".join(f"{i}-{j}:{order:g}" for i, j, order in reading.bonds),
           "rings": " ".join(f"{size}{'a' * aromatic}{'f' * fused}" for size, aromatic, fused in reading.rings),
           "key": name}
        for row, (atoms, reading, name) in enumerate(
            zip(structures, verdict.readings, fingerprints(structures, rules), strict=True)
        )
    ]  # fmt: skip
    if path.suffix == ".json":
        write_text(path, json.dumps(rows, indent=0, default=lambda value: value.item()) + "\n")
    else:
        text = io.StringIO()
        names = ["row", "formula", "atoms", "valid", "reason", "smiles", *more, "bonds", "rings", "key"]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
    return path


def read_results(path: str | Path) -> dict[str, Reading]:
    """Readings by fingerprint from a file of :func:`write_results`, except those that ran out of time.

    Raises:
        InputError: for a file that is none of these.
    """
    path, found = _table_path(path), {}
    try:
        text = path.read_text()
        rows = json.loads(text) if path.suffix == ".json" else list(csv.DictReader(io.StringIO(text)))
        for row in rows:
            if row["reason"].startswith(AGAIN):
                continue
            parts = [part.replace("-", ":", 1).split(":") for part in row["bonds"].split()]
            bonds = tuple((int(i), int(j), float(order)) for i, j, order in parts)
            rings = tuple((int(ring.rstrip("af")), "a" in ring, "f" in ring) for ring in row["rings"].split())
            found[row["key"]] = Reading(row["smiles"] or None, row["reason"], bonds, rings)
    except (KeyError, ValueError, TypeError, AttributeError):
        raise InputError(
            f"{path} is no table of verdicts on molecules; give another results_path, or force_recomputation to "
            "replace it"
        ) from None
    return found


def _table_path(path: str | Path) -> Path:
    if Path(path).suffix not in (".csv", ".json"):
        raise InputError(f"the results path {path} has no known ending; give a name that ends in .csv or .json")
    return Path(path)


def by_size(structures: Sequence[Atoms]) -> IntArray:
    """(M,) rows in order of size, then of composition (fewest hydrogen first), as sort_db.py of schnetpack-gschnet.

    >>> from ase.build import molecule
    >>> by_size([molecule("C2H6"), molecule("CH4"), molecule("HCN"), molecule("CO")]).tolist()
    [3, 2, 1, 0]
    """
    counts = element_counts(structures)
    return np.lexsort((*counts.T[::-1], counts.sum(axis=1)))


def write_molecules(path: str | Path, structures: Sequence[Atoms], smiles: Sequence[str | None], sort: bool) -> Path:
    """Write an ASE database that SchNetPack reads, anew: molecules, with their SMILES and rows as ``smiles``, ``row``.

    Args:
        path: File that ends in .db; an existing one is replaced.
        structures: M molecules.
        smiles: (M,) stored with them.
        sort: By size and composition, see :func:`by_size`.
    """
    import ase.db

    path = Path(path)
    if path.suffix != ".db":
        raise InputError(f"cannot write a database to {path}; expected a name that ends in .db")
    rows = (by_size(structures) if sort else np.arange(len(structures))).tolist()
    with atomic(path) as temporary:
        info = {"smiles": [smiles[row] for row in rows], "row": rows}
        write_db(temporary, [structures[row] for row in rows], info)
        with ase.db.connect(temporary) as database:  # type: ignore[no-untyped-call]
            database.metadata = {"_distance_unit": "Ang", "_property_unit_dict": {}}
    return path


def annotate_db(path: str | Path, verdict: Validity, *, progress: bool = False) -> None:
    """Write ``smiles`` and ``data["validity"]`` into the rows of an ASE database, as check_validity.py does.

    Args:
        path: The database from which the molecules were read.
        verdict: (M,) on its rows in their order.
        progress: Show a progress bar.

    Raises:
        InputError: for a file that is no database, or verdicts on another number of molecules.
    """
    import ase.db

    if Path(path).suffix != ".db":
        raise InputError(f"cannot write the validity to {path}; write_to_input_db needs an ASE database (.db)")
    with ase.db.connect(path) as database:  # type: ignore[no-untyped-call]
        ids = [row.id for row in database.select(columns=["id"])]
        if len(ids) != len(verdict):
            raise InputError(f"{path} has {len(ids)} rows for {len(verdict)} verdicts; judge it again")
        bar = tqdm(zip(ids, verdict.readings, strict=True), total=len(ids), desc="writing", disable=not progress)
        for number, reading in bar:
            data = {"validity": np.array([reading.valid])}
            database.update(number, data=data, smiles=reading.smiles or "")
        metadata = dict(database.metadata)
        if "_property_unit_dict" in metadata:
            metadata["_property_unit_dict"] = metadata["_property_unit_dict"] | {"validity": "bool"}
            database.metadata = metadata


def read_splits(path: str | Path, data: str | Path) -> dict[str, IntArray]:
    """Rows of the training, validation and test set of a data file, from the ``split.npz`` of a training.

    Files of schnetpack-gschnet count the molecules that are connected under the placement cut-off; which ones are not,
    their database says.

    Args:
        path: ``.npz`` with ``train_idx``, ``val_idx``, ``test_idx``, or ``.json`` with ``train``, ``val``, ``test``.
        data: The file that was split.

    Raises:
        InputError: for a file that has none of these, or a database without the list of disconnected molecules.
    """
    path = Path(path)
    try:
        if path.suffix == ".json":
            content: Mapping[str, Any] = json.loads(path.read_text())
        else:
            with np.load(path, allow_pickle=False) as arrays:
                content = {name: arrays[name] for name in arrays}
        found = {name: content.get(f"{name}_idx", content.get(name)) for name in SPLITS}
        given = {name: rows for name, rows in found.items() if rows is not None}
        splits: dict[str, IntArray] = {name: np.asarray(rows, dtype=np.int64).ravel() for name, rows in given.items()}
    except FileNotFoundError:
        raise InputError(f"the split file {path} does not exist; give the split.npz of the training") from None
    except (ValueError, TypeError, AttributeError, EOFError):
        raise InputError(f"{path} cannot be read as a split; give the split.npz of the training") from None
    if not splits:
        raise InputError(f"{path} has none of train_idx, val_idx, test_idx; give the split.npz of the training")
    if "rows" in content:  # of a run of this library: indices of prepared molecules, and their rows in the file
        return {name: np.asarray(content["rows"], dtype=np.int64)[index] for name, index in splits.items()}
    if "placement_cutoff" not in content or Path(data).suffix != ".db":
        return splits
    import ase.db

    setting = "/".join(
        str(content[f"{name}"]) for name in ("placement_cutoff", "use_covalent_radii", "covalent_radius_factor")
    )
    with ase.db.connect(data) as database:  # type: ignore[no-untyped-call]
        apart, count = dict(database.metadata).get("disconnected_idx", {}), database.count()
    if setting not in apart:
        raise InputError(
            f"{path} counts connected molecules under {setting}, which the metadata of {data} do not list; give the "
            "database of that training"
        )
    connected = np.setdiff1d(np.arange(count), np.asarray(apart[setting], dtype=np.int64))
    return {name: connected[rows] for name, rows in splits.items()}
