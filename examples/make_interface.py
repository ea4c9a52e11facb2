"""Make a data set of disordered Cu/Au interfaces with EMT.

``python examples/make_interface.py --n 800 --out cuau.extxyz`` takes about five minutes; a run that was killed goes on
when it is started again.
"""

from pathlib import Path

import numpy as np

from megen_gym.cli import run
from megen_gym.interfaces import Interface, Kind, make_interfaces


def make(
    n: int = 20,
    seed: int = 1,
    out: Path = Path("cuau.extxyz"),
    kind: Kind = "mixed",
    elements: tuple[str, str] = ("Cu", "Au"),
    size: tuple[int, int, int] = (3, 3, 6),
    interface: int = 2,
    calculator: str = "emt",
    steps: int = 60,
    progress: bool = True,
) -> None:
    """Build fcc(100) slabs of two metals with a disordered interface and relax them at fixed cell.

    Args:
        n: Number of structures in the file.
        seed: Of the whole set; structure i depends on it and on i alone.
        out: The file (.xyz or .extxyz); structures of an earlier run with the same settings stay.
        kind: mixed = both elements on lattice sites in random order, displaced by up to 0.9 Å before relaxing;
            disordered = interface atoms inserted at random, at least 2.0 Å apart.
        elements: The lower and the upper metal.
        size: Atoms along x and y, and number of layers.
        interface: Number of disordered layers in the middle.
        calculator: lj, emt, tblite, or the import path of an ASE calculator.
        steps: FIRE steps per structure.
        progress: Show a progress bar.
    """
    structures = make_interfaces(out, n, seed, Interface(kind, elements, size, interface), calculator, steps, progress)
    energies = np.array([atoms.get_potential_energy() / len(atoms) for atoms in structures])
    formula = structures[0].get_chemical_formula()
    print(
        f"{len(structures)} {kind} interfaces {formula} in {out}: {energies.mean():.4f} ± {energies.std():.4f} eV/atom"
    )


if __name__ == "__main__":
    run(make)
