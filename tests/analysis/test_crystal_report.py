"""Coverage, and the table of all metrics beside what real crystals reach."""

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell

from megen_gym.analysis.coverage import Coverage, Fingerprints, coverage, fingerprints
from megen_gym.analysis.crystal_report import crystal_report
from megen_gym.analysis.crystal_table import CrystalReport, CrystalRow
from megen_gym.errors import InputError


def salts(pairs: str = "LiF NaCl KBr NaF LiCl KCl") -> list[Atoms]:
    size = {"Li": 0.9, "Na": 1.16, "K": 1.52, "F": 1.19, "Cl": 1.67, "Br": 1.82}
    split = [(name[:-1], name[-1]) if name.endswith("F") else (name[:-2], name[-2:]) for name in pairs.split()]
    return [bulk(a + b, "rocksalt", a=2 * (size[a] + size[b])) for a, b in split]


def prints(structure: list[float], composition: list[float]) -> Fingerprints:
    return Fingerprints(np.array(structure)[:, None], np.array(composition)[:, None])


class TestCoverage:
    def test_recall_and_precision(self):
        reference = prints([0, 1, 2, np.nan], [0, 0, 9, 0])
        made = prints([0.1, 0.1, 5, np.nan], [0.0, 0.2, 0, 0])
        scale = [0.0], [1.0]
        assert coverage(made, reference, (0.2, 1), scale=scale) == Coverage(1 / 3, 0.5)
        assert coverage(made[:1], reference, (2, 100), scale=scale) == Coverage(1, 1)
        assert coverage(made[3:], reference, (2, 1)) == Coverage(0, 0)
        assert np.isnan(coverage(made, reference[3:], (2, 1)).recall)

    def test_near_in_both_or_in_one(self):
        reference, made = prints([0, 10], [0, 10]), prints([0, 10], [10, 0])
        scale = [0.0], [1.0]
        assert coverage(made, reference, (1, 1), scale=scale) == Coverage(1, 1), "as in the published code"
        assert coverage(made, reference, (1, 1), scale=scale, joint=True) == Coverage(0, 0)

    def test_the_reference_normalises(self):
        reference, made = prints([0, 0], [0, 10]), prints([0, 0], [2, 99])
        assert coverage(made, reference, (1, 0.5)) == Coverage(0.5, 0.5), "2 of 10 are 0.4 deviations of 5"
        assert coverage(made, reference, (1, 0.3)) == Coverage(0, 0)
        same = prints([0, 0], [7, 7])
        assert coverage(prints([0, 0], [7.2, 9]), same, (1, 0.5)) == Coverage(1, 0.5), "no deviation counts as 1"
        with pytest.raises(InputError, match="the scale has shapes"):
            coverage(made, reference, scale=([0, 0], [1, 1]))
        with pytest.raises(InputError, match="cut-offs"):
            coverage(made, reference, (0, 1))

    def test_of_crystals(self):
        pytest.importorskip("matminer")
        salt = salts("NaCl")[0]
        other = make_supercell(salt, [[1, 1, 0], [0, 1, 0], [0, 1, 2]])
        other.positions += [0.3, 4, -1]
        other.rotate(33, (1, 2, 3), rotate_cell=True)
        close, lost = salt.copy(), salt.copy()
        close.positions[1] = close.positions[0] + 0.1
        lost.positions[0] = np.nan
        found = fingerprints([salt, other[::-1], bulk("Si"), close, lost])
        assert found.structure.shape == (5, 61)
        assert found.composition.shape == (5, 132)
        assert found.failed.tolist() == [False, False, False, True, True]
        np.testing.assert_allclose(found.structure[0], found.structure[1], atol=1e-6)
        np.testing.assert_array_equal(found.composition[0], found.composition[1])
        assert coverage(found[:1], found[:3], (0.4, 10)).precision == 1
        assert coverage(found, found[:3], (0.2, 4)) == Coverage(1, 0.6)
        with pytest.raises(InputError, match="0 processes"):
            fingerprints([salt], processes=0)

    def test_refusal_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "matminer.featurizers.composition", None)
        from megen_gym.analysis import coverage as module

        with pytest.raises(InputError, match=r"pip install 'megen-gym\[crystals\]'"):
            module._featurizer.__wrapped__()


@pytest.fixture(scope="module")
def report() -> CrystalReport:
    for package in ("matminer", "pymatgen", "smact"):
        pytest.importorskip(package)
    made = salts("LiF NaCl NaCl KBr")
    made[3].positions[1] = made[3].positions[0]
    odd = bulk("Na", cubic=True)
    odd.numbers = [11, 2]
    return crystal_report(
        [*made, odd],
        [225, "Fm-3m", 194, 225, "P1"],
        salts("LiF KCl"),
        salts("NaCl KBr NaF LiCl KF LiBr"),
        cutoffs=(0.2, 4),
    )


class TestReport:
    def test_values(self, report):
        values = {row.metric: row.value for row in report.rows}
        assert values == pytest.approx(
            {
                "structure valid": 0.8, "composition valid": 0.8, "valid": 0.6, "unique": 2 / 3, "novel": 2 / 3,
                "valid, unique, novel": 0.2, "COV-R": values["COV-R"], "COV-P": values["COV-P"],
                "W1 density": values["W1 density"], "W1 elements": 0, "asked group": 0.6, "asked group or more": 0.8,
            }
        )  # fmt: skip
        assert values["COV-R"] >= 1 / 6
        assert values["COV-P"] >= 0.4
        assert 0 < values["W1 density"] < 1

    def test_floors(self, report):
        floors = {row.metric: row.floor for row in report.rows}
        for metric in ("structure valid", "valid", "unique", "novel", "valid, unique, novel", "asked group"):
            assert floors[metric] == 1, metric
        assert floors["W1 elements"] == 0
        assert floors["W1 density"] > 0
        assert report.left_out == ()

    def test_tables(self, report):
        text = report.table().splitlines()
        assert text[0].split() == ["metric", "generated", "floor", "(data)"]
        assert len(text) == 1 + len(report.rows)
        assert "unique                  66.67 %      100.00 %" in text
        assert "| valid                |   60.00 % |     100.00 % |" in report.table("markdown")
        assert "valid,1,0.6,1" in report.table("csv").splitlines()
        assert "\n- unique: share of" in report.table("markdown", explain=True)

    def test_what_is_missing_is_said(self, monkeypatch):
        for package in ("matminer", "pymatgen", "smact"):
            monkeypatch.setitem(sys.modules, package, None)
        report = crystal_report(salts("LiF"), ["Fm-3m"], salts(), salts())
        assert [row.metric for row in report.rows] == ["structure valid", "W1 density", "W1 elements", "asked group"]
        assert len(report.left_out) == 4
        assert report.table().endswith("not installed, get it with: pip install 'megen-gym[crystals]'")

    def test_nothing_valid(self):
        pytest.importorskip("smact")
        pytest.importorskip("matminer")
        lost = salts("LiF")
        lost[0].positions[:] = np.nan
        report = crystal_report(lost, None, salts(), salts("LiF NaCl"), cap=2)
        assert np.isnan(report["unique"].value)
        assert report["valid, unique, novel"].value == 0
        assert report["COV-P"].value == 0
        assert "-" in report.table().splitlines()[4].split()

    def test_given_groups_of_the_data(self):
        pytest.importorskip("pymatgen")
        two = salts("LiF NaCl")
        report = crystal_report(two, [1, 225], two, two, held_out_groups=[225, 227], cap=2)
        assert (report["asked group"].value, report["asked group"].floor) == (0.5, 0.5)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (([], None, salts(), salts()), "0 generated"),
            ((salts(), None, salts(), salts("LiF")), "1 held-out"),
            ((salts(), [225], salts(), salts()), "asked has 1 space groups for 6 crystals"),
        ],
    )
    def test_refusals(self, arguments, message):
        with pytest.raises(InputError, match=message):
            crystal_report(*arguments)
        with pytest.raises(InputError, match="at most 1 crystals"):
            crystal_report(salts(), None, salts(), salts(), cap=1)


def test_row_without_number():
    report = CrystalReport((CrystalRow("novel", "%", np.nan, 0.5, "share"),), ("Left out: all.",))
    assert report.table().splitlines()[1].split() == ["novel", "-", "50.00", "%"]
    assert report.table("markdown").endswith("\n- Left out: all.")
