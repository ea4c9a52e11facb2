"""Energies above a hull of known answers, S.U.N., relaxation of cells, and the rows of the table."""

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from megen_gym.analysis.crystal_relax import relax_crystals, rmsd
from megen_gym.analysis.crystal_symmetry import found_groups
from megen_gym.analysis.hull_reference import read_reference, without_reference
from megen_gym.analysis.stability import Stability, energies_above_hull, stability
from megen_gym.analysis.stability_report import StabilityJudge
from megen_gym.errors import InputError

pytest.importorskip("pymatgen")

# eV of all atoms; formation energies per atom: AuCu -0.2, Au3Cu (hull -0.1) at 0, Cu2 above Cu
KNOWN = [("Cu", -1.0), ("Cu2", -1.0), ("Au2", -4.0), ("AuCu", -3.4), ("Au3Cu", -7.0), ("AuCu", np.nan), ("AuCu", -2)]


def ordered(first: str, second: str, length: float = 3.9) -> Atoms:
    """L1_2: three of the first, one of the second."""
    atoms = bulk(first, "fcc", a=length, cubic=True)
    atoms.symbols[0] = second
    return atoms


class Fails(EMT):
    """EMT that fails on everything with gold."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        if 79 in atoms.numbers:
            raise RuntimeError("no gold here")
        super().calculate(atoms, properties, system_changes)


class TestHull:
    def test_distances(self):
        crystals = [Atoms("CuAu"), Atoms("Au2Cu2"), Atoms("Au3Cu"), Atoms("AuCu3"), Atoms("Cu4"), Atoms("Au")]
        energies = [-3.0, -6.8, -8.0, -5.2, -4.4, -1.9]
        # Au3Cu on the line AuCu - Au: (2 * -1.7 + 2 * -2) / 4; AuCu3: (2 * -1.7 + 2 * -1) / 4
        expected = [-1.5 + 1.7, 0.0, -2.0 + 1.85, -1.3 + 1.35, -1.1 + 1.0, -1.9 + 2.0]
        np.testing.assert_allclose(energies_above_hull(crystals, energies, KNOWN), expected, atol=1e-12)

    def test_three_elements_and_structures_as_reference(self):
        known = [(bulk("Cu"), -1.0), (bulk("Ag"), -1.0), (bulk("Pd"), -1.0), (Atoms("CuAg"), -3.0), (Atoms("Au"), -9.0)]
        # on the line CuAg - Pd: (2 * -1.5 - 1) / 3
        assert energies_above_hull([Atoms("CuAgPd")], [-3.0], known)[0] == pytest.approx(-1.0 + 4 / 3)
        assert energies_above_hull([], [], known).shape == (0,)

    def test_no_energy_no_answer(self):
        found = energies_above_hull([Atoms("XeCu"), Atoms("Cu")], [np.nan, -0.5], KNOWN)
        assert np.isnan(found[0])
        assert found[1] == pytest.approx(0.5)

    def test_missing_elements_are_named(self):
        with pytest.raises(InputError, match="no energy of pure Pd, Xe, above"):
            energies_above_hull([Atoms("XePd"), Atoms("Cu")], [0.0, 0.0], KNOWN)
        with pytest.raises(InputError, match="no energy of pure Cu"):
            energies_above_hull([Atoms("Cu")], [0.0], [("Cu", np.nan), ("CuAu", -1.0)])
        assert without_reference([Atoms("XeCu"), Atoms("Cu")], KNOWN) == [{"Xe"}, set()]

    def test_refusals(self, monkeypatch):
        with pytest.raises(InputError, match=r"shape \(2,\) were given for 1 crystals"):
            energies_above_hull([Atoms("Cu")], [0.0, 1.0], KNOWN)
        with pytest.raises(InputError, match="'Cuu', which is no formula"):
            energies_above_hull([Atoms("Cu")], [0.0], [("Cuu", 1.0)])
        with pytest.raises(InputError, match="cut-off is nan"):
            stability([], [], KNOWN, cutoff=np.nan)
        monkeypatch.setitem(sys.modules, "pymatgen.analysis.phase_diagram", None)
        with pytest.raises(InputError, match=r"pip install 'megen-gym\[crystals\]'"):
            energies_above_hull([Atoms("Cu")], [0.0], KNOWN)


class TestSun:
    def test_stable_unique_novel(self):
        cold, other = ordered("Au", "Cu"), ordered("Cu", "Au")
        overlap = bulk("Au", "fcc", a=4.1, cubic=True)
        overlap.positions[1] = overlap.positions[0] + 0.1
        crystals = [cold, cold.repeat((2, 1, 1)), cold, other, bulk("Cu"), overlap, cold]
        energies = [-7.0, -14.8, -7.4, -5.4, -1.0, -99.0, np.nan]
        found = stability(crystals, energies, KNOWN, [bulk("Cu", a=3.5)])
        np.testing.assert_allclose(found.e_above_hull[:5], [0.1, 0, 0, 0, 0], atol=1e-12)
        assert found.stable.tolist() == [True, True, True, True, True, True, False]
        assert found.sun.tolist() == [True, False, False, True, False, False, False]
        assert (found.share_stable, found.share_sun) == (6 / 7, 2 / 7)
        assert stability([cold], [-7.4], KNOWN, cutoff=0).stable.tolist() == [True], "in spite of rounding"
        less = stability(crystals, energies, KNOWN, cutoff=0.05)
        assert less.sun.tolist() == [False, True, False, True, True, False, False], "the first stable one counts"

    def test_nothing(self):
        found = stability([], [], KNOWN)
        assert isinstance(found, Stability)
        assert np.isnan(found.share_sun)
        assert np.isnan(found.share_stable)


class TestRelaxation:
    def test_cell_positions_and_symmetry(self):
        odd = ordered("Au", "Cu", 4.3)
        odd.positions[1] += [0.05, 0.02, 0.0]
        first, second = relax_crystals([ordered("Au", "Cu", 4.3), odd], "emt", progress=False)
        assert first.converged
        assert second.converged
        assert first.energy < first.before - 0.1
        assert found_groups([first.atoms], 1e-4).tolist() == [221]
        assert first.atoms.cell.lengths() == pytest.approx([first.atoms.cell.lengths()[0]] * 3)
        assert first.energy == pytest.approx(second.energy, abs=0.01)
        assert rmsd(ordered("Au", "Cu", 4.3), first.atoms) == pytest.approx(0, abs=1e-6)
        assert rmsd(odd, second.atoms) > 0.01
        fresh = second.atoms.copy()
        fresh.calc = EMT()
        assert fresh.get_potential_energy() == pytest.approx(second.atoms.get_potential_energy())
        free = relax_crystals([ordered("Au", "Cu", 4.3)], "emt", keep_symmetry=False, progress=False)[0]
        assert free.energy == pytest.approx(first.energy, abs=1e-3)

    def test_failures_cost_themselves(self):
        lost = bulk("Cu")
        lost.positions[:] = np.nan
        crystals = [bulk("Cu"), bulk("Au"), lost, bulk("Ag")]
        for steps in (0, 2):
            some = relax_crystals(crystals, f"{__name__}.Fails", steps=steps, progress=False)
            assert [one.error is None for one in some] == [True, False, False, True]
            assert some[1].error == "RuntimeError: no gold here"
            assert np.isnan(some[1].energy)
            assert some[1].atoms is crystals[1]
            assert some[0].steps <= steps
        np.testing.assert_array_equal(crystals[0].cell, bulk("Cu").cell)

    def test_refusals(self):
        with pytest.raises(InputError, match="steps -1"):
            relax_crystals([bulk("Cu")], "emt", steps=-1)
        with pytest.raises(InputError, match="periodic"):
            relax_crystals([Atoms("Cu")], "emt")
        with pytest.raises(InputError, match="unknown calculator 'emtt'"):
            relax_crystals([bulk("Cu")], "emtt")


class TestRows:
    def test_hull_of_the_data(self):
        training = [bulk("Cu"), bulk("Au"), ordered("Au", "Cu"), bulk("Pt")]
        held_out = [ordered("Cu", "Au", 3.75), bulk("Au", "bcc", a=3.3), bulk("Ag")]
        judge = StabilityJudge(training, held_out, "emt", steps=12)
        rows, notes = judge([ordered("Cu", "Au"), ordered("Cu", "Au", 3.7), bulk("Au"), ordered("Au", "Pt")])
        table = {row.metric: row for row in rows}
        assert list(table) == [
            "calculated", "energy per atom", "energy above hull", "stable", "S.U.N.", "RMSD of relaxation",
        ]  # fmt: skip
        assert all(np.isfinite([row.value, row.floor]).all() for row in rows)
        assert (table["calculated"].value, table["calculated"].floor) == (1, 1)
        assert table["S.U.N."].value in (0.25, 0.5)
        assert table["stable"].value >= 0.75
        assert 0 <= table["energy above hull"].floor < 0.1
        assert notes[0].startswith("The hull: 4 more crystals of the data")

    def test_hull_of_a_file_and_what_is_not_computed_is_said(self, tmp_path):
        known = [bulk("Cu"), bulk("Ag")]
        for atoms, energy in zip(known, (0.0, 5.0), strict=True):
            atoms.calc = SinglePointCalculator(atoms, energy=energy)
        write(tmp_path / "known.extxyz", known, format="extxyz")
        judge = StabilityJudge(
            [bulk("Cu"), bulk("Pd")], [bulk("Cu"), bulk("Pd")], f"{__name__}.Fails", steps=0,
            hull=tmp_path / "known.extxyz",
        )  # fmt: skip
        rows, notes = judge([bulk("Ag"), bulk("Au"), bulk("Pd"), bulk("Cu")], cap=None)
        table = {row.metric: row for row in rows}
        assert "RMSD of relaxation" not in table
        assert table["calculated"].value == 0.75
        assert table["stable"].value == 0.5
        assert table["stable"].floor == 0.5
        assert table["S.U.N."].value == 0.25, "silver, as copper is known"
        text = "\n".join(notes)
        assert "No energy for 1 of 4 generated crystals, which count as not stable: RuntimeError: no gold" in text
        assert "no pure crystal of Pd: 1 of 3 generated" in text
        assert "More than 1 eV/atom below the hull: 1 of 4 generated" in text
        assert len(judge([bulk("Ag"), bulk("Au"), bulk("Pd"), bulk("Cu")], cap=2)[0]) == 5

    def test_refusals(self, tmp_path):
        two = [bulk("Cu"), bulk("Au")]
        write(tmp_path / "bare.extxyz", two, format="extxyz")
        with pytest.raises(InputError, match=r"structure 0 of .* has no energy"):
            read_reference(tmp_path / "bare.extxyz")
        with pytest.raises(InputError, match="the data holds no pure crystal of Au, Cu"):
            StabilityJudge([ordered("Au", "Cu")], [ordered("Cu", "Au")], "emt")
        with pytest.raises(InputError, match="relax_steps is -1"):
            StabilityJudge(two, two, "emt", steps=-1)
        with pytest.raises(InputError, match="unknown calculator"):
            StabilityJudge(two, two, "emu")
