"""Stability of generated crystals as rows of the table of metrics, each beside what real crystals reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from megen_gym.analysis.crystal_relax import FMAX, primitive_cells, relax_crystals, rmsd
from megen_gym.analysis.crystal_table import CrystalRow
from megen_gym.analysis.hull_reference import Reference, inside, read_reference, without_reference
from megen_gym.analysis.relax import Relaxed, calculator_factory
from megen_gym.analysis.stability import CUTOFF, Stability, check_cutoff, stability
from megen_gym.errors import InputError, require
from megen_gym.structure import IntArray

DEEP = 1.0
"""eV per atom below the hull beyond which the calculator is doubted rather than the hull."""


class StabilityJudge:
    """Judges generated crystals by their energies above a hull, as MatterGen and CrystalFormer are judged.

    All crystals are taken in primitive cells.

    Args:
        training: Crystals that the generator has seen.
        held_out: Crystals of the same kind that it has not seen; the floor.
        calculator: Short name or import path as in :func:`~megen_gym.analysis.relax.calculator_factory`.
        kwargs: Its arguments.
        steps: Most steps of relaxation of cell and positions; 0 for the energies of the crystals as they are.
        keep_symmetry: Hold the space group meanwhile.
        hull: File of crystals with energies (eV, by a method that goes with the calculator). By default the training
            and held-out crystals make the hull, computed as the generated ones are: all those that consist of elements
            of one judged crystal.
        cutoff: eV per atom above the hull up to which a crystal is stable.

    Raises:
        InputError: for a calculator that cannot be made, values out of range, a file without energies, a hull without
            a pure crystal of any element of the data, or if pymatgen is missing.
    """

    def __init__(
        self,
        training: Sequence[Atoms],
        held_out: Sequence[Atoms],
        calculator: str,
        kwargs: Mapping[str, Any] | None = None,
        *,
        steps: int = 200,
        keep_symmetry: bool = True,
        hull: str | Path | None = None,
        cutoff: float = CUTOFF,
    ) -> None:
        check_cutoff(cutoff)
        if steps < 0:
            raise InputError(f"relax_steps is {steps}; give 0 for no relaxation, or the most steps of one")
        try:
            import_module("pymatgen.analysis.phase_diagram")
        except ImportError:
            require("pymatgen", "crystals")
        calculator_factory(calculator, kwargs)
        self.training, self.held_out = primitive_cells(training), primitive_cells(held_out)
        self.calculator, self.kwargs, self.steps = calculator, kwargs, steps
        self.keep_symmetry, self.cutoff = keep_symmetry, cutoff
        self.hull = None if hull is None else read_reference(hull)
        data = self.training + self.held_out
        known = [(atoms, 0.0) for atoms in data] if self.hull is None else self.hull
        missing = without_reference(data, known)
        if all(missing):
            what = "the data holds" if hull is None else f"{hull} holds"
            names = ", ".join(sorted(set().union(*missing)))
            raise InputError(
                f"{what} no pure crystal of {names}, so that no crystal has an energy above a hull; give a file of "
                "crystals with energies, the elements among them, as hull"
            )

    def __call__(
        self, generated: Sequence[Atoms], *, cap: int | None = None, seed: int = 0, progress: bool = False
    ) -> tuple[list[CrystalRow], list[str]]:
        """Rows, and sentences on what could not be computed.

        Args:
            generated: Crystals, periodic in three directions.
            cap: Judge so many generated and held-out crystals at most, drawn at random; the hull is not capped.
            seed: Of what is drawn.
            progress: Show progress bars.

        Returns:
            Rows ``calculated``, ``energy per atom``, ``energy above hull``, ``stable``, ``S.U.N.`` and, where relaxed,
            ``RMSD of relaxation``.
        """
        random = np.random.default_rng(seed)
        made = primitive_cells([generated[row] for row in _draw(random, len(generated), cap)])
        rows = _draw(random, len(self.held_out), min(cap or len(generated), len(generated)))
        real = [self.held_out[row] for row in rows]
        results = [self._relaxed(made, "generated", progress), self._relaxed(real, "held out", progress)]
        reference, notes = self._reference([*made, *real], set(rows.tolist()), results[1], progress)
        judged = [self._judge(some, reference, progress) for some in results]
        for who, some, outcome in zip(("generated", "held-out"), results, judged, strict=True):
            notes += self._notes(who, some, outcome, reference)
        return self._rows((made, real), results, judged), notes

    def _relaxed(self, crystals: Sequence[Atoms], label: str, progress: bool) -> list[Relaxed]:
        return relax_crystals(
            crystals, self.calculator, self.kwargs, steps=self.steps, keep_symmetry=self.keep_symmetry,
            progress=progress, label=label,
        )  # fmt: skip

    def _reference(
        self, judged: Sequence[Atoms], computed: set[int], real: Sequence[Relaxed], progress: bool
    ) -> tuple[Reference, list[str]]:
        """The hull's crystals with their energies; those of the held-out rows `computed` are there already."""
        if self.hull is not None:
            return self.hull, []
        rest = [atoms for row, atoms in enumerate(self.held_out) if row not in computed]
        pool = self.training + rest
        others = self._relaxed([pool[row] for row in inside(pool, judged)], "of the hull", progress)
        failed = [one.error for one in others if one.error]
        notes = [f"The hull: {len(others)} more crystals of the data, computed as the generated ones"]
        if failed:
            notes.append(f"No energy for {len(failed)} of these {len(others)}: {failed[0]}")
        return [(one.atoms, one.energy) for one in (*others, *real)], notes

    def _judge(self, some: Sequence[Relaxed], reference: Reference, progress: bool) -> Stability:
        crystals, energies = [one.atoms for one in some], np.array([one.energy for one in some])
        energies[[bool(elements) for elements in without_reference(crystals, reference)]] = np.nan
        return stability(crystals, energies, reference, self.training, cutoff=self.cutoff, progress=progress)

    def _notes(self, who: str, some: Sequence[Relaxed], outcome: Stability, reference: Reference) -> list[str]:
        notes = []
        if failed := [one.error for one in some if one.error]:
            notes.append(
                f"No energy for {len(failed)} of {len(some)} {who} crystals, which count as not stable: {failed[0]}"
            )
        done = [one for one in some if not one.error]
        if late := sum(not one.converged for one in done):
            notes.append(f"Not below {FMAX} eV/Å after {self.steps} steps: {late} of {len(done)} {who} crystals")
        alone = [lacking for lacking in without_reference([one.atoms for one in done], reference) if lacking]
        if alone:
            names = ", ".join(sorted(set().union(*alone)))
            notes.append(
                f"The hull has no pure crystal of {names}: {len(alone)} of {len(done)} {who} crystals contain some and "
                "count as not stable"
            )
        if deep := int((outcome.e_above_hull < -DEEP).sum()):
            notes.append(
                f"More than {DEEP:g} eV/atom below the hull: {deep} of {len(some)} {who} crystals; check whether the "
                "calculator can be trusted there"
            )
        return notes

    def _rows(
        self, sets: Sequence[Sequence[Atoms]], results: Sequence[Sequence[Relaxed]], judged: Sequence[Stability]
    ) -> list[CrystalRow]:
        """Of generated crystals and, as floors, of the held-out ones in their place."""
        how = f"after at most {self.steps} steps of relaxation" if self.steps else "not relaxed"
        done = [
            [(old, one) for old, one in zip(crystals, some, strict=True) if not one.error]
            for crystals, some in zip(sets, results, strict=True)
        ]
        shares = [[float(not one.error) for one in some] for some in results]
        energies = [[one.energy / len(old) for old, one in some] for some in done]
        above = [one.e_above_hull[np.isfinite(one.e_above_hull)].tolist() for one in judged]
        stable, sun = [one.stable.tolist() for one in judged], [one.sun.tolist() for one in judged]
        near = f"share of all at most {self.cutoff:g} eV/atom above the hull"
        new = "share of all that is stable and valid, equals no such one before it, and none in training"
        table: list[tuple[str, str, list[list[float]], str]] = [
            ("calculated", "%", shares, f"share that has an energy by {self.calculator}, {how}"),
            ("energy per atom", "eV", energies, "mean of those that have one"),
            (
                "energy above hull",
                "eV/atom",
                above,
                "mean of those that have one; crystals of the hull are never below 0",
            ),
            ("stable", "%", stable, near),
            ("S.U.N.", "%", sun, new),
        ]
        if self.steps:
            moved = [[rmsd(old, one.atoms) for old, one in some] for some in done]
            table.append(("RMSD of relaxation", "Å", moved, "mean of how far atoms moved within the cell"))
        return [CrystalRow(name, unit, _mean(own), _mean(real), text) for name, unit, (own, real), text in table]


def _draw(random: np.random.Generator, count: int, most: int | None) -> IntArray:
    """Sorted rows of at most `most` of `count`."""
    if most is None or count <= most:
        return np.arange(count)
    return np.sort(random.choice(count, most, replace=False))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
