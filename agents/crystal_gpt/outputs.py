"""Sampled crystals as files: extxyz, ASE db, CIF with symmetry, and a table with the likelihood by part."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from megen_gym.agents.crystal_gpt.generate import Samples
from megen_gym.cif import cif_text
from megen_gym.errors import InputError
from megen_gym.io import check_folder, write_db, write_structures
from megen_gym.runs import make_folder, write_text
from megen_gym.structure import FloatArray

PARTS = ("logp_w", "logp_a", "logp_xyz", "logp_l")

CIF_NAME = "crystal_{:04d}.cif"

COLUMNS = ("formula", "spacegroup", "L", "W", "A", "X", "M", *PARTS, "logp", "cif")


def kind_of(path: str | Path) -> str:
    """What a file is to be: "extxyz", "db", "csv", "cif" (one file), or "folder" (of CIFs).

    Raises:
        InputError: for another ending.
    """
    name = str(path).lower()
    for end, kind in ((".extxyz.gz", "extxyz"), (".xyz.gz", "extxyz"), (".extxyz", "extxyz"), (".xyz", "extxyz"),
                      (".db", "db"), (".csv", "csv"), (".cif", "cif")):  # fmt: skip
        if name.endswith(end):
            return kind
    if Path(path).suffix:
        raise InputError(
            f"cannot write crystals to {path}; give a name ending in .extxyz, .csv, .cif or .db, or a folder for CIFs"
        )
    return "folder"


def check_output(path: str | Path, count: int) -> None:
    """Refuse a place that cannot be written to, before any work is done.

    Raises:
        InputError: for an ending that is not known, a folder that is a file, or one that holds more CIFs already.
    """
    path, kind = Path(path), kind_of(path)
    for above in path.absolute().parents:
        if above.exists():
            if not above.is_dir():
                raise InputError(f"cannot write {path}: {above} is a file; give another place")
            break
    if kind == "folder":
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; give a folder, or a name with an ending")
        check_folder(path, CIF_NAME.replace("{:04d}", "*"), count)
    elif path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file")


def write_samples(
    path: str | Path, samples: Samples, extra: dict[str, FloatArray] | None = None, by: str | None = None
) -> Path:
    """Write crystals, likeliest first; the kind of file follows from the name, see :func:`kind_of`.

    Args:
        path: File, or folder for one CIF per crystal.
        samples: Crystals and their likelihood.
        extra: More (B,) numbers by name.
        by: Name among `extra` of what they are sorted by instead, smallest first and NaN last.

    Raises:
        InputError: for an ending that is not known, or a folder that holds CIFs of more crystals already.
    """
    path, kind = Path(path), kind_of(path)
    order = np.argsort(-samples.logp.sum(1) if by is None else (extra or {})[by], kind="stable")
    samples = samples[order]
    columns: dict[str, Any] = {name: samples.logp[:, index] for index, name in enumerate(PARTS)}
    columns |= {"logp": samples.logp.sum(1)} | {name: value[order] for name, value in (extra or {}).items()}
    crystals = samples.crystals
    if kind in ("extxyz", "db"):
        info = columns | {"spacegroup": crystals.group, "sites": [crystals.names(row) for row in range(len(crystals))]}
        structures = crystals.to_atoms()
        if kind == "db":
            for row, atoms in enumerate(structures):
                atoms.info |= {name: values[row] for name, values in info.items()}
            temporary = path.with_name(f".tmp-{path.name}")
            temporary.unlink(missing_ok=True)
            write_db(temporary, structures, info)
            temporary.replace(path)
            return path
        return write_structures(path, structures, info)
    texts = cif_text(crystals)
    if kind == "cif":
        write_text(path, "\n".join(texts))
    elif kind == "csv":
        write_text(path, _table(samples, columns, texts))
    else:
        check_folder(path, CIF_NAME.replace("{:04d}", "*"), len(texts))
        make_folder(path)
        for row, text in enumerate(texts):
            write_text(path / CIF_NAME.format(row), text)
    return path


def _table(samples: Samples, columns: dict[str, Any], texts: list[str]) -> str:
    """The published columns L, X, A, W, M and log-probabilities as JSON lists and numbers, and the CIF."""
    crystals, multiplicity = samples.crystals, samples.crystals.multiplicity
    formulas = [atoms.get_chemical_formula("metal") for atoms in crystals.to_atoms()]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    more = [name for name in columns if name not in COLUMNS]
    writer.writerow([*COLUMNS[:-1], *more, "cif"])
    for row, count in enumerate(crystals.n_sites.tolist()):
        lists = [
            crystals.lattice[row].round(6), crystals.letters[row, :count], crystals.elements[row, :count],
            crystals.coordinates[row, :count].round(8), multiplicity[row, :count],
        ]  # fmt: skip
        numbers = [f"{float(columns[name][row]):.8g}" for name in (*PARTS, "logp", *more)]
        lists_text = [json.dumps(part.tolist()) for part in lists]
        writer.writerow([formulas[row], int(crystals.group[row]), *lists_text, *numbers, texts[row]])
    return file.getvalue()
