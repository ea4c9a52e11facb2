"""QM9 from a local file: the archive ``dsgdb9nsd.xyz.tar.bz2`` or its unpacked folder.

Ramakrishnan et al., Scientific Data 1, 140022 (2014), https://doi.org/10.6084/m9.figshare.978904.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from megen_gym.agents.gschnet.sources import Source
from megen_gym.errors import InputError

ARCHIVES = (".tar", ".tar.bz2", ".tar.gz", ".tgz", ".tbz2", ".tar.xz")

PROPERTIES = {
    "rotational_constant_A": "GHz", "rotational_constant_B": "GHz", "rotational_constant_C": "GHz",
    "dipole_moment": "Debye", "isotropic_polarizability": "a0 a0 a0", "homo": "Ha", "lumo": "Ha", "gap": "Ha",
    "electronic_spatial_extent": "a0 a0", "zpve": "Ha", "energy_U0": "Ha", "energy_U": "Ha", "enthalpy_H": "Ha",
    "free_energy": "Ha", "heat_capacity": "cal/mol/K",
}  # fmt: skip
"""Names (SchNetPack's) and units of the numbers in the comment lines, in their order."""

SHORT = ("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv")
"""What the paper calls them; these names are understood as well."""

ALL = 133_885
"""Molecules of the whole set; a database of this size holds the uncharacterised ones."""

UNCHARACTERIZED = ("uncharacterized.txt", "3195404", "3195404.txt")
"""File names under which the list of the 3,054 molecules that did not stay themselves is looked for."""

_NAME = re.compile(r"dsgdb9nsd_(\d+)\.xyz$")


def is_qm9(path: Path) -> bool:
    """Whether a path is an archive, a file of one of its molecules, or a folder of those."""
    if path.is_dir():
        return next(path.glob("dsgdb9nsd_*.xyz"), None) is not None
    return path.name.lower().endswith(ARCHIVES) or _NAME.search(path.name) is not None


def from_qm9(path: Path, wanted: Sequence[str], progress: bool = False) -> Source:
    """The molecules of an archive or folder, by their number in the set less one.

    Args:
        path: See :func:`is_qm9`.
        wanted: Properties by either name.
        progress: Show a bar.

    Raises:
        InputError: for an archive that is damaged, or holds no molecule of the set.
    """
    from tqdm import tqdm

    units = PROPERTIES | dict(zip(SHORT, PROPERTIES.values(), strict=True))
    columns = dict(zip((*PROPERTIES, *SHORT), (*range(15), *range(15)), strict=True))
    source = Source(values={name: [] for name in wanted}, names=list(units), units=units, distance_unit="Ang")
    texts: list[tuple[int, str]] = []
    try:
        for name, text in tqdm(_texts(path), "molecules", leave=False, disable=not progress):
            texts.append((int(name) - 1, text))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"the archive {path} cannot be read ({error}); download it again") from None
    if not texts:
        raise InputError(f"{path} holds no file dsgdb9nsd_*.xyz; give the archive dsgdb9nsd.xyz.tar.bz2 or its folder")
    symbols = np.array(sorted(atomic_numbers))
    numbers = np.array([atomic_numbers[symbol] for symbol in symbols])
    for row, text in sorted(texts):
        try:
            lines = text.replace("*^", "e").split("\n")
            table = np.array(" ".join(lines[2 : 2 + int(lines[0])]).split()).reshape(int(lines[0]), 5)
            at = np.searchsorted(symbols, table[:, 0]).clip(max=len(symbols) - 1)
            if not len(table) or (symbols[at] != table[:, 0]).any():
                raise ValueError("no or unknown elements")
            given = [float(word) for word in lines[1].split()[2:17]]
            values = [given[columns[name]] if name in columns else None for name in wanted]
            place = table[:, 1:4].astype(np.float64)
        except (ValueError, IndexError) as error:
            source.faults.append(f"molecule {row + 1} of QM9 is damaged ({error})")
            continue
        source.numbers.append(numbers[at])
        source.positions.append(place)
        source.cells.append(np.zeros((3, 3)))
        source.pbc.append((False, False, False))
        source.rows.append(row)
        for column, value in zip(source.values.values(), values, strict=True):
            column.append(value)
    return source


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """Number and content of each file."""
    if path.name.lower().endswith(ARCHIVES) and path.is_file():
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                found = _NAME.search(member.name)
                content = archive.extractfile(member) if found and member.isfile() else None
                if found and content is not None:
                    yield found[1], content.read().decode(errors="replace")
        return
    for file in path.glob("dsgdb9nsd_*.xyz") if path.is_dir() else [path]:
        if found := _NAME.search(file.name):
            yield found[1], file.read_text(errors="replace")


def uncharacterized(choice: bool | str | Path, path: Path) -> set[int] | None:
    """Rows of the molecules to leave out; None where `choice` is true but there is no list beside `path`.

    Args:
        choice: Whether to, or the list: QM9's ``uncharacterized.txt`` (its numbers count from 1), or any file whose
            lines begin with such numbers.
        path: The data, beside which (or in which) the list is looked for.

    Raises:
        InputError: for a list that does not exist or holds no number.
    """
    if choice is False:
        return set()
    folders = [path, path.parent] if path.is_dir() else [path.parent]
    beside = [folder / name for folder in folders for name in UNCHARACTERIZED]
    file = next((file for file in beside if file.is_file()), None) if choice is True else Path(choice)
    if file is None:
        return None
    if not file.is_file():
        raise InputError(
            f"the list of uncharacterised molecules {file} does not exist; "
            "give QM9's uncharacterized.txt, or remove_uncharacterized=False"
        )
    words = [line.split() for line in file.read_text(errors="replace").splitlines()]
    numbers = {int(w[0]) - 1 for w in words if w and w[0].isdecimal() and w[1:2] not in (["compounds"], ["molecules"])}
    if not numbers:
        raise InputError(f"{file} holds no numbers of molecules; expected QM9's uncharacterized.txt")
    return numbers
