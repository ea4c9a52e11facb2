"""Pick the starting clusters of ``start="seeds"`` from a labelled data set.

``python rewards/dart/minima.py --dataset labels.extxyz.gz --output megen_gym/data/gallium_seeds.extxyz`` keeps the last
image of every relaxation, drops duplicates, and takes the lowest few of each size.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
from ase import Atoms

from megen_gym.analysis.unique import unique
from megen_gym.analysis.validity import valid_clusters
from megen_gym.errors import user_errors
from megen_gym.io import read_structures, write_structures
from megen_gym.structure import StructureBatch

RELAXED = ("relax", "grow", "build")


@user_errors
def main(dataset: list[Path], output: Path, largest: int = 17, per_size: int = 30, tolerance: float = 0.1) -> None:
    """Write the lowest distinct relaxed clusters of each size.

    Args:
        dataset: Labelled files whose structures carry `binding_energy`, `kind`, `job` and `step`.
        output: extxyz file to write.
        largest: Largest size kept.
        per_size: Most structures kept of one size.
        tolerance: Å; structures whose sorted distances differ by less are the same.
    """
    last: dict[tuple[Path, int, str, int], Atoms] = {}
    for path in dataset:
        for atoms in read_structures(path):
            info = atoms.info
            if info["kind"] in RELAXED and len(atoms) <= largest:
                key = path, info["job"], info["kind"], len(atoms)
                if key not in last or info["step"] > last[key].info["step"]:
                    last[key] = atoms
    ends = sorted(last.values(), key=lambda atoms: (len(atoms), atoms.info["binding_energy"]))
    batch = StructureBatch.from_atoms(ends)
    kept = np.intersect1d(unique(batch, tol=tolerance)[0], np.flatnonzero(valid_clusters(batch)))
    sizes = batch.n_atoms[kept]
    rank = np.arange(len(kept)) - np.searchsorted(sizes, sizes)
    chosen = [ends[index] for index in kept[rank < per_size]]
    for atoms in chosen:
        atoms.info = {"binding_energy": atoms.info["binding_energy"]}
        atoms.positions = np.round(atoms.positions, 4)
    write_structures(output, chosen)
    print(f"{len(chosen)} clusters of {sizes.min()} to {sizes.max()} atoms: {output}")


if __name__ == "__main__":
    from megen_gym.cli import run

    run(main)
