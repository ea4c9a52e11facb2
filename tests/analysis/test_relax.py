"""Relaxation with ASE calculators; failures cost one structure."""

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones

from megen_gym.analysis.relax import calculator_factory, relax
from megen_gym.errors import InputError
from megen_gym.structure import StructureBatch

DIMER = Atoms("Ga2", [[0, 0, 0], [2.9, 0, 0]])


class Broken(LennardJones):
    """Raises for four atoms, returns NaN for three."""

    def calculate(self, atoms=None, *args, **kwargs):
        if len(atoms) == 4:
            raise RuntimeError("no convergence")
        super().calculate(atoms, *args, **kwargs)
        if len(atoms) == 3:
            self.results["energy"] = np.nan


def test_dimer_reaches_the_minimum():
    given = DIMER.copy()
    given.info["energy"] = 5.0
    done = relax([given], "ase.calculators.lj.LennardJones", {"sigma": 2.4, "rc": 20.0}, fmax=1e-3, progress=False)[0]
    assert done.error is None
    assert done.converged
    assert done.atoms.get_distance(0, 1) == pytest.approx(2.4 * 2 ** (1 / 6), abs=1e-3)
    assert done.energy == pytest.approx(done.atoms.get_potential_energy())
    assert done.energy < done.before
    assert "energy" not in done.atoms.info
    assert given.get_distance(0, 1) == 2.9
    assert not done.atoms.pbc.any()


def test_short_names_and_batch():
    assert relax(StructureBatch.from_atoms([DIMER]), "lj", steps=2, progress=False)[0].steps == 2
    cu = relax([Atoms("Cu2", [[0, 0, 0], [2.5, 0, 0]])], "emt", optimizer="BFGS", vacuum=5.0, progress=False)[0]
    assert cu.converged
    assert not cu.atoms.cell.array.any()


def test_failures_are_reported_not_fatal():
    structures = [Atoms(f"Ga{n}", np.eye(n, 3) * 2.6 + np.arange(n)[:, None]) for n in (2, 3, 4)]
    path = f"{__name__}.Broken"
    sys.modules[__name__].Broken = Broken
    done = relax(structures, path, {"sigma": 2.4}, steps=3, progress=False)
    assert [result.error is None for result in done] == [True, False, False]
    assert "nan" in done[1].error
    assert done[2].error == "RuntimeError: no convergence"
    assert done[2].atoms is structures[2]
    unknown = relax([Atoms("Ga2", [[0, 0, 0], [2.6, 0, 0]])], "emt", progress=False)[0]
    assert unknown.error is not None
    assert "Ga" in unknown.error


def test_bad_input(monkeypatch):
    with pytest.raises(InputError, match="did you mean 'emt'"):
        calculator_factory("emtt")
    with pytest.raises(InputError, match="no 'LenardJones'; did you mean 'LennardJones'"):
        calculator_factory("ase.calculators.lj.LenardJones")
    with pytest.raises(InputError, match="cannot import"):
        calculator_factory("no_such_package.Calculator")
    with pytest.raises(InputError, match="does not take"):
        calculator_factory("ase.calculators.singlepoint.SinglePointCalculator", {"energy": 1.0})
    with pytest.raises(InputError, match="fmax"):
        relax([DIMER], fmax=0, progress=False)
    with pytest.raises(InputError, match="unknown optimizer"):
        relax([DIMER], optimizer="Fire", progress=False)
    monkeypatch.setitem(sys.modules, "tblite", None)
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(InputError, match=r"pip install 'megen-gym\[xtb\]'"):
        calculator_factory("tblite")
