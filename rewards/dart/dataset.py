"""Labelled gallium clusters: reading, removing duplicates, and splitting so that nothing leaks.

Neighbouring images of one relaxation and the same minimum found twice are nearly the same data. Structures that share
a job (a trajectory) or a fingerprint therefore stay on one side of the split, together with everything that they are
connected to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from megen_gym.errors import InputError

SAME = 0.005
"""Å; two structures are one if no sorted distance differs by more."""

SIMILAR = 0.05
"""Å; two structures stay on one side of the split if no sorted distance differs by more."""

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Clusters with energies.

    Attributes:
        positions: One (n, 3) array in Å per structure.
        energies: (M,) binding energies in eV, negative for bound clusters.
        kinds: (M,) how each structure came about; "" where the file does not say.
        jobs: (M,) what belongs together, -1 where the file does not say.
    """

    positions: tuple[NDArray[np.float64], ...]
    energies: NDArray[np.float64]
    kinds: tuple[str, ...]
    jobs: Index

    def __len__(self) -> int:
        return len(self.energies)

    def __getitem__(self, rows: Index) -> Labelled:
        return Labelled(
            tuple(self.positions[row] for row in rows),
            self.energies[rows],
            tuple(self.kinds[row] for row in rows),
            self.jobs[rows],
        )

    @property
    def sizes(self) -> Index:
        """(M,) number of atoms."""
        return np.array([len(positions) for positions in self.positions], dtype=np.int64)


def load(paths: Sequence[Path], atom_energy: float | None = None) -> Labelled:
    """Read one or more extxyz files (also .gz).

    Args:
        paths: Files. An `info` key ``binding_energy`` (eV) is taken as it is; otherwise the structure's total energy,
            less `atom_energy` per atom. ``kind`` and ``job`` are optional; equal job numbers of two files are
            different jobs.
        atom_energy: eV, total energy of one gallium atom with the same settings.

    Raises:
        InputError: for an absent, empty or broken file, other elements, a missing or non-finite energy, atoms that
            coincide.
    """
    positions, energies, kinds, jobs = [], [], [], []
    for number, path in enumerate(paths):
        for place, atoms in enumerate(_read(path)):
            where = f"structure {place} of {path}"
            if set(atoms.symbols) != {"Ga"}:
                raise InputError(
                    f"{where} has the elements {sorted(set(atoms.symbols))}; DART is trained on gallium clusters"
                )
            energy = _energy(atoms, atom_energy, where)
            if not (np.isfinite(atoms.positions).all() and np.isfinite(energy)):
                raise InputError(f"{where} has positions or an energy that are not finite; remove or repair it")
            if len(atoms) > 1 and pdist(atoms.positions).min() == 0:
                raise InputError(f"{where} has two atoms in one place; remove or repair it")
            positions.append(np.asarray(atoms.positions, dtype=np.float64))
            energies.append(energy)
            kinds.append(str(atoms.info.get("kind", "")))
            jobs.append(int(atoms.info["job"]) * len(paths) + number if "job" in atoms.info else -1)
    return Labelled(tuple(positions), np.array(energies), tuple(kinds), np.array(jobs, dtype=np.int64))


def fingerprint(data: Labelled) -> str:
    """A short name of the data: equal for equal structures and energies in equal order."""
    digest = hashlib.sha256(data.energies.tobytes())
    for positions in data.positions:
        digest.update(positions.tobytes())
    return digest.hexdigest()[:16]


def _read(path: Path) -> list[Atoms]:
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; give an extxyz file with labelled structures")
    try:
        structures = read(path, index=":", format="extxyz")
    except Exception as error:  # a parser may raise anything on a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{str(path)!r} cannot be read as extxyz ({reason}); repair the file or write it anew with ase.io"
        ) from None
    if not structures:
        raise InputError(f"{str(path)!r} holds no structures; give an extxyz file with labelled structures")
    return list(structures)


def _energy(atoms: Atoms, atom_energy: float | None, where: str) -> float:
    if "binding_energy" in atoms.info:
        return float(atoms.info["binding_energy"])
    total = atoms.info.get("energy")
    if total is None and atoms.calc is not None:
        total = atoms.calc.results.get("energy")
    if total is None:
        raise InputError(f"{where} has no energy; expected the info key binding_energy or energy in eV")
    if atom_energy is None:
        raise InputError(
            f"{where} has a total energy; give --atom_energy, the energy of one gallium atom in eV "
            "(0 if it is a binding energy)"
        )
    return float(total) - len(atoms) * atom_energy


def _close_pairs(data: Labelled, tolerance: float) -> Index:
    """(P, 2) rows of structures of one size whose sorted distances agree within `tolerance` Å."""
    found = [np.empty((0, 2), dtype=np.int64)]
    sizes = data.sizes
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        prints = np.array([np.sort(pdist(data.positions[row])) if size > 1 else [0.0] for row in rows])
        found.append(rows[cKDTree(prints).query_pairs(tolerance, p=np.inf, output_type="ndarray")])
    return np.concatenate(found)


def deduplicate(data: Labelled) -> Labelled:
    """`data` with one of each set of equal structures: the first."""
    pairs = _close_pairs(data, SAME)
    repeated = np.zeros(len(data), dtype=bool)
    repeated[pairs.max(1)] = True
    return data[np.flatnonzero(~repeated)]


def groups(data: Labelled) -> Index:
    """(M,) number of the group of each structure; groups share neither a job nor a fingerprint."""
    pairs = [_close_pairs(data, SIMILAR)]
    for job in np.unique(data.jobs[data.jobs >= 0]):
        rows = np.flatnonzero(data.jobs == job)
        pairs.append(np.stack([rows[:-1], rows[1:]], axis=1))
    first, second = np.concatenate(pairs).T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(data), len(data)))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def split(
    group: Index, seed: int, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
) -> tuple[Index, Index, Index]:
    """Rows for training, validation and test; whole groups on one side.

    Args:
        group: (M,) as :func:`groups` gives it.
        seed: Of the order in which groups are dealt out.
        fractions: Wanted shares.

    Raises:
        InputError: for fewer than three groups, or fractions that do not add up to 1.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"fractions {fractions} given; expected three positive shares that add up to 1")
    names, counts = np.unique(group, return_counts=True)
    if len(names) < 3:
        raise InputError(
            f"the data are {len(names)} group(s) of connected structures; at least 3 are needed to train, validate "
            "and test"
        )
    wanted = np.array(fractions) * len(group)
    missing = wanted.copy()
    side = np.zeros(len(names), dtype=np.int64)
    for name in np.random.default_rng(seed).permutation(len(names)):
        side[name] = np.argmax(missing / wanted)  # the first three groups go to the three sides
        missing[side[name]] -= counts[name]
    of_row = side[np.searchsorted(names, group)]
    train, validation, test = (np.flatnonzero(of_row == part) for part in range(3))
    return train, validation, test
