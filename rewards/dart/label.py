"""Build a labelled data set for DART: ``python rewards/dart/label.py --output labels.extxyz --jobs 300``.

Every job draws candidates from its own random stream, relaxes some of them for a few steps with the given ASE
calculator and keeps *every* step with its energy. A finished job is appended to the output in one write; a killed run
is started again with the same command and goes on with the next job. Several processes share one output name through
``--share 0/2`` and ``--share 1/2`` (each appends to a file of its own).
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read, write
from ase.optimize import BFGS

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from megen_gym.io import read_structures
from megen_gym.rewards.dart import candidates

GPAW_LCAO: dict[str, Any] = {
    "mode": "lcao",
    "basis": "dzp",
    "xc": "PBE",
    "h": 0.30,
    "occupations": {"name": "fermi-dirac", "width": 0.1},
    "spinpol": False,
    "symmetry": "off",
    "mixer": {"backend": "pulay", "beta": 0.2, "nmaxold": 5, "weight": 1.0},
    "convergence": {"density": 1e-3, "energy": 1e-3},
    "maxiter": 120,
    "txt": None,
}
"""PBE in GPAW's LCAO mode: about 2 to 7 s a single point for 5 to 17 gallium atoms on one core."""

VACUUM = 3.5  # Å
SCAN = (0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.94, 0.97, 1.04, 1.1, 1.2, 1.4)
Label = tuple[Atoms, float, str]


class Labeller:
    """Energies and short relaxations with a calculator built anew for every trajectory.

    Args:
        factory: Returns a fresh ASE calculator.
        stiffness: eV/Å², curvature that relaxations start with. ASE's 70 suits covalent crystals; gallium clusters
            relax in a third of the steps with 15.
    """

    def __init__(self, factory: Callable[[], Any], stiffness: float = 15.0) -> None:
        self.factory, self.stiffness = factory, stiffness

    def point(self, atoms: Atoms, kind: str) -> Iterator[Label]:
        """One single-point energy (eV); nothing when the calculator does not converge."""
        yield from self.relax(atoms, 0, kind)

    def relax(self, atoms: Atoms, steps: int, kind: str) -> Iterator[Label]:
        """Every image of a relaxation of at most `steps` steps, the start included."""
        work = Atoms(atoms.symbols, atoms.positions)
        work.center(vacuum=VACUUM)
        work.calc = self.factory()
        try:
            if steps:
                for _ in BFGS(work, logfile=None, maxstep=0.2, alpha=self.stiffness).irun(fmax=0.05, steps=steps):
                    yield self._label(work, kind)
            else:
                yield self._label(work, kind)
        except Exception as error:  # a calculator may raise anything; what was labelled so far stays
            print(f"{kind} of {len(atoms)} atoms ended early: {type(error).__name__}: {error}", file=sys.stderr)

    @staticmethod
    def _label(work: Atoms, kind: str) -> Label:
        energy = float(work.get_potential_energy())
        return Atoms(work.symbols, work.positions - work.positions.mean(0)), energy, kind


@dataclass(frozen=True)
class Mix:
    """What jobs are made of.

    Attributes:
        chains: Share of jobs that relax a random packing and then grow it twice, relaxing each time.
        builds: Share of jobs that relax a cluster built atom by atom.
        scans: Share of jobs that scale a relaxed build from 0.65 to 1.4 times its size; the rest of the jobs are single
            points of gases.
        build_steps: Relaxation steps of a build.
        max_size: Largest cluster.
        relatives: Whether builds get a strained, a rattled or an overlapping relative as chains do, and are more
            or less compact at random.
    """

    chains: float = 0.12
    builds: float = 0.75
    scans: float = 0.1
    build_steps: int = 8
    max_size: int = 20
    relatives: bool = True


def run_job(labeller: Labeller, rng: np.random.Generator, mix: Mix) -> Iterator[Label]:
    """The labels of one job."""
    draw = rng.random()
    size = int(np.clip(round(rng.triangular(3, 13, mix.max_size)), 2, mix.max_size))
    if draw < mix.chains:
        yield from _chain(labeller, rng, size, mix.max_size)
    elif draw < mix.chains + mix.builds:
        choices = int(rng.choice([1, 2, 4, 8, 16])) if mix.relatives else 1
        labels = list(labeller.relax(candidates.build(rng, size, choices), mix.build_steps, "build"))
        yield from labels
        if labels and mix.relatives:
            last, kind = labels[-1][0], rng.choice(["strain", "rattle", "overlap"], p=[0.5, 0.35, 0.15])
            yield from labeller.point(getattr(candidates, kind)(rng, last), str(kind))
    elif draw < mix.chains + mix.builds + mix.scans:
        labels = list(labeller.relax(candidates.build(rng, size, 4), mix.build_steps, "build"))
        yield from labels
        for factor in SCAN if labels else ():
            last = labels[-1][0]
            yield from labeller.point(Atoms(last.symbols, last.positions * factor), "strain")
    else:
        yield from labeller.point(candidates.gas(rng, min(size, 12)), "gas")


def _chain(labeller: Labeller, rng: np.random.Generator, size: int, max_size: int) -> Iterator[Label]:
    start = candidates.pack(rng, max(2, size - 2))
    for length, steps in enumerate((18, 9, 9)):
        labels = list(labeller.relax(start, steps, "relax" if length == 0 else "grow"))
        yield from labels
        if not labels or len(labels[-1][0]) >= max_size:
            return
        last = labels[-1][0]
        if length == 0:
            yield from labeller.point(candidates.strain(rng, last), "strain")
            yield from labeller.point(candidates.rattle(rng, last), "rattle")
            if rng.random() < 0.3:
                yield from labeller.point(candidates.overlap(rng, last), "overlap")
        start = candidates.grow(rng, last)


def finished_jobs(path: Path) -> set[int]:
    """Numbers of the jobs that stand in `path` already."""
    if not path.exists():
        return set()
    return {int(atoms.info["job"]) for atoms in read(path, ":")}


def main(
    output: Path,
    jobs: int = 300,
    seed: int = 0,
    mix: Mix = Mix(),
    starts: Path | None = None,
    steps: int = 18,
    stiffness: float = 15.0,
    share: str = "0/1",
    calculator: str = "gpaw.GPAW",
    kwargs: dict[str, Any] | None = None,
) -> None:
    """Label gallium clusters with an ASE calculator.

    Args:
        output: extxyz file that grows by one job at a time.
        jobs: Number of jobs; each gives 1 to about 45 labels, a build about 10.
        seed: Seed of all random numbers; a job depends on (seed, job) alone.
        mix: What jobs are made of.
        starts: File of structures to relax, one a job, instead of candidates that are drawn.
        steps: Relaxation steps of these.
        stiffness: eV/Å², curvature that relaxations start with.
        share: "i/k": do every k-th job, beginning with the i-th, for k processes side by side.
        calculator: Import path of an ASE calculator class.
        kwargs: Its arguments; the default is the PBE set-up of the bundled data set.
    """
    module, _, name = calculator.rpartition(".")
    make = getattr(importlib.import_module(module), name)
    settings = GPAW_LCAO if kwargs is None and calculator == "gpaw.GPAW" else kwargs or {}
    index, count = (int(part) for part in share.split("/"))
    path = output if count == 1 else output.with_stem(f"{output.stem}.{index}")
    labeller = Labeller(lambda: make(**settings), stiffness)
    given = [] if starts is None else read_structures(starts)
    atom = Atoms("Ga")
    atom.center(vacuum=VACUUM)
    atom.calc = labeller.factory()
    atom_energy = atom.get_potential_energy()
    done = finished_jobs(path)
    for job in range(index, min(jobs, len(given)) if given else jobs, count):
        if job in done:
            continue
        text = io.StringIO()
        rng = np.random.default_rng([seed, job])
        labels = list(labeller.relax(given[job], steps, "relax") if given else run_job(labeller, rng, mix))
        for step, (atoms, energy, kind) in enumerate(labels):
            atoms.info |= {
                "binding_energy": round(energy - len(atoms) * atom_energy, 5),
                "kind": kind,
                "job": job,
                "step": step,
            }
            write(text, atoms, format="extxyz", columns=["symbols", "positions"])
        with path.open("a") as file:
            file.write(text.getvalue())
        print(f"job {job}: {len(labels)} labels", flush=True)


if __name__ == "__main__":
    from megen_gym.cli import run

    run(main)
