"""Crystals to train on, with their properties: read from a file, remembered, and split."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from megen_gym.agents.crystal_gpt.duplicates import first_equal
from megen_gym.agents.crystal_gpt.reading import Entry, brief, check, entries, id_of, number, numbers_of, same
from megen_gym.agents.crystal_gpt.store import fingerprint, read_stored, write_stored
from megen_gym.agents.nn.caching import folder
from megen_gym.crystals import SYMPREC, CrystalBatch, describe
from megen_gym.errors import InputError, nearest
from megen_gym.structure import FloatArray, IntArray

BUNDLE = Path(__file__).parent / "bundle" / "prototypes.npz"
"""The default data, synthetic: see :mod:`megen_gym.agents.crystal_gpt.derive_bundle`."""

Duplicates = Literal["drop", "keep", "group"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Dataset:
    """`B` crystals with `P` properties.

    Attributes:
        crystals: The crystals.
        names: Of the properties.
        properties: (B, P) in the units of the file; NaN where missing.
        ids: (B,) text by which the file knows each crystal, else its number there.
        skipped: A sentence for every structure of the file that could not be used.
        path: Where they are from.
    """

    crystals: CrystalBatch
    names: tuple[str, ...]
    properties: FloatArray
    ids: np.ndarray[tuple[int, ...], np.dtype[np.str_]]
    skipped: tuple[str, ...]
    path: Path

    def __len__(self) -> int:
        return len(self.crystals)

    def __getitem__(self, rows: slice | ArrayLike) -> Dataset:
        """The crystals of `rows` (slice, indices or mask) with their properties."""
        index = rows if isinstance(rows, slice) else np.atleast_1d(np.asarray(rows))
        if isinstance(index, np.ndarray) and not index.size:
            index = np.zeros(0, dtype=np.int64)
        part = self.crystals[index]
        return replace(self, crystals=part, properties=self.properties[index], ids=self.ids[index])


@dataclass(frozen=True, eq=False)
class Split:
    """Two parts of a data set.

    Attributes:
        train: To learn from; never empty.
        valid: To judge by.
        n_duplicates: Crystals of the data set that are the same as an earlier one, left out or not.
    """

    train: Dataset
    valid: Dataset
    n_duplicates: int


def load(
    path: str | Path | None = None,
    symprec: float = SYMPREC,
    cache: bool | str | Path | None = True,
    progress: bool = False,
) -> Dataset:
    """Read crystals and describe them by their symmetry.

    A structure that cannot be used (unreadable, atoms on one another, partly occupied sites, not periodic, without
    symmetry that spglib can make out) is left out, with a sentence in :attr:`Dataset.skipped`.

    Args:
        path: CSV (also ``.csv.gz``) with a column ``cif``, ``cif_string`` or ``structure`` that holds CIFs, every other
            column of numbers being a property; extended XYZ, ASE database and trajectory, whose numbers stored with
            each structure are properties; CIF; POSCAR; a folder of those. None for the bundled synthetic crystals,
            which know their density and volume_per_atom.
        symprec: Å within which atoms count as equivalent; a tenth of it where that fails.
        cache: Keep the result for the next time: True in ``$XDG_CACHE_HOME/megen_gym/crystals``, else a folder;
            False or None not at all. Results are known by the content of the file.
        progress: Show a bar.

    Raises:
        InputError: for a path without a single crystal that can be used, or a symprec that is not positive.
    """
    if not (np.isfinite(symprec) and symprec > 0):
        raise InputError(f"symprec is {symprec}; give a positive number of Å such as {SYMPREC}")
    if path is None:
        stored = read_stored(BUNDLE)
        if stored is None:
            raise InputError(f"the bundled crystals {BUNDLE} are missing or damaged; install the package again")
        return Dataset(*stored, BUNDLE)
    path = Path(path)
    where = folder(cache, "crystals")
    file = where / f"{fingerprint(path, symprec)}.npz" if where is not None and path.exists() else None
    if file is not None and (stored := read_stored(file)) is not None:
        return Dataset(*stored, path)
    data = _read(path, symprec, progress)
    if file is not None:
        try:
            write_stored(file, (data.crystals, data.names, data.properties, data.ids, data.skipped))
        except OSError as error:
            _LOG.warning(f"what was read from {path} is not kept for the next time ({error.strerror or error})")
    return data


def from_atoms(
    structures: Sequence[Atoms], properties: dict[str, Sequence[float]] | None = None, symprec: float = SYMPREC
) -> Dataset:
    """A data set of structures in memory; what cannot be used is left out as in :func:`load`.

    Args:
        structures: Crystals; the numbers in their ``info`` are properties.
        properties: More of them, one value per structure.
        symprec: Å.

    Raises:
        InputError: if no structure can be used, or a property has not one value for each.
    """
    given = properties or {}
    for name, values in given.items():
        if len(values) != len(structures):
            raise InputError(
                f"property {name!r} has {len(values)} values for {len(structures)} structures; give one each"
            )
    found = []
    for index, atoms in enumerate(structures):
        texts = {name: str(values[index]) for name, values in given.items()}
        found.append(Entry(f"structure {index}", id_of(atoms.info, str(index)), partial(same, atoms), texts))
    return _described(found, [], Path(), symprec, False)


def split(dataset: Dataset, holdout: float = 0.1, seed: int = 0, duplicates: Duplicates = "drop") -> Split:
    """Hold out a part, at random.

    Args:
        dataset: At least one crystal.
        holdout: Share that is held out, 0 ... 1; at least one crystal unless it is 0 or there is only one.
        seed: The same seed gives the same parts.
        duplicates: "drop" leaves out all but the first of equal crystals, "group" keeps them on one side of the
            split, "keep" lets them fall anywhere.

    Raises:
        InputError: for an empty data set, another share, or an unknown name.
    """
    if not 0 <= holdout < 1:
        raise InputError(f"holdout is {holdout}; give a share from 0 to less than 1, such as 0.1")
    if duplicates not in get_args(Duplicates):
        raise InputError(f"unknown duplicates {duplicates!r}; {nearest(str(duplicates), get_args(Duplicates))}")
    if not len(dataset):
        raise InputError("the data set is empty; give at least one crystal")
    first = first_equal(dataset.crystals)
    every = np.arange(len(dataset))
    rows = np.flatnonzero(first == every) if duplicates == "drop" else every
    bundles = first[rows] if duplicates == "group" else rows
    held = _held(bundles, holdout, np.random.default_rng(seed))
    return Split(dataset[rows[~held]], dataset[rows[held]], int((first != every).sum()))


def _held(
    bundles: IntArray, holdout: float, rng: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """(B,) which rows are held out, whole bundles only."""
    kinds, of, sizes = np.unique(bundles, return_inverse=True, return_counts=True)
    wanted = max(1, round(holdout * len(bundles))) if holdout and len(kinds) > 1 else 0
    order = rng.permutation(len(kinds))
    chosen = np.zeros(len(kinds), dtype=bool)
    taken = 0
    for kind in order[:-1].tolist():
        if taken + sizes[kind] <= wanted:
            chosen[kind] = True
            taken += int(sizes[kind])
    if wanted and not taken:
        chosen[order[sizes[order].argmin()]] = True
    return np.asarray(chosen[of])


def _read(path: Path, symprec: float, progress: bool) -> Dataset:
    found, faults = entries(path)
    return _described(found, faults, path, symprec, progress)


def _described(found: list[Entry], faults: list[str], path: Path, symprec: float, progress: bool) -> Dataset:
    from tqdm import tqdm

    crystals: list[CrystalBatch] = []
    texts: list[dict[str, str]] = []
    values: list[dict[str, float]] = []
    ids: list[str] = []
    skipped: list[str] = []
    with _silent():
        for entry in tqdm(found, desc="crystals", disable=not progress, leave=False):
            try:
                atoms = entry.make()
                check(atoms)
                crystals.append(_describe(atoms, symprec))
            except Exception as error:
                skipped.append(f"{entry.where}{': ' if _whole(error) else ' '}{brief(error)}")
                continue
            texts.append(dict(entry.values))
            values.append(numbers_of(atoms))
            ids.append(entry.id)
    skipped += faults
    if not crystals:
        what = f"{path} holds no crystal that can be used" if path != Path() else "no crystal can be used"
        raise InputError(f"{what}; {skipped[0] if skipped else 'give at least one'}")
    names, table = _properties(texts, values)
    return Dataset(CrystalBatch.join(crystals), names, table, np.array(ids, dtype=np.str_), tuple(skipped), path)


def _whole(error: Exception) -> bool:
    """Whether the message is a sentence of its own, not the end of one."""
    return isinstance(error, InputError) and not str(error).startswith(("has ", "is ", "holds "))


def _describe(atoms: Atoms, symprec: float) -> CrystalBatch:
    try:
        return describe(atoms, symprec)
    except InputError:
        return describe(atoms, symprec / 10)


@contextmanager
def _silent() -> Iterator[None]:
    """Without the warnings of readers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _properties(texts: list[dict[str, str]], values: list[dict[str, float]]) -> tuple[tuple[str, ...], FloatArray]:
    """Names and (B, P) of the columns whose cells are all numbers or blank, and of the stored numbers."""
    columns: dict[str, FloatArray] = {}
    for name in dict.fromkeys(name for row in texts for name in row):
        cells = [number(row.get(name, "")) for row in texts]
        if all(cell is not None for cell in cells):
            columns[name] = np.array(cells, dtype=np.float64)
    for name in dict.fromkeys(name for row in values for name in row):
        columns.setdefault(name, np.array([row.get(name, np.nan) for row in values]))
    kept = {name: np.where(np.isfinite(column), column, np.nan) for name, column in columns.items()}
    kept = {name: column for name, column in kept.items() if np.isfinite(column).any()}
    return tuple(kept), np.array(list(kept.values()), dtype=np.float64).reshape(len(kept), len(texts)).T
