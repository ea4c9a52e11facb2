"""Numbers that compare two sets of molecules, against their definitions; and the report."""

import csv
import io

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

pytest.importorskip("rdkit")

from test_molecule_validity import closed_shells

from megen_gym.analysis.molecule_geometry import GAMMAS, angle_name, bond_name, by_kind, internal, mmd, weighted
from megen_gym.analysis.molecule_property import UNITS, xtb_property
from megen_gym.analysis.molecule_report import Aim, report, summary
from megen_gym.analysis.molecule_rings import RINGS, element_counts, jensen_shannon, ring_counts
from megen_gym.analysis.molecule_validity import check
from megen_gym.errors import InputError


def rattled(seed: int = 0, size: float = 0.01, copies: int = 1) -> list[Atoms]:
    random = np.random.default_rng(seed)
    found = [atoms.copy() for atoms in closed_shells().values() for _ in range(copies)]
    for atoms in found:
        atoms.positions += random.normal(size=atoms.positions.shape) * size
    return found


def test_rings() -> None:
    names = ("C5H8", "bicyclobutane", "C5H5N", "cyclobutane", "CH4")
    counts = ring_counts(check([molecule(name) for name in names]).readings)
    table = [dict(zip(RINGS, row, strict=True)) for row in counts.tolist()]
    shown = [{name: number for name, number in row.items() if number} for row in table]
    assert shown == [{"R3": 2}, {"R3": 2, "fused": 2}, {"R6": 1, "aromatic": 1}, {"R4": 1}, {}]


def test_elements_and_divergence() -> None:
    counts = element_counts([molecule("CH3OH"), Atoms(), molecule("CF4")])
    assert counts.shape == (3, 119)
    assert counts[:, [1, 6, 8, 9]].tolist() == [[4, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 4]]
    assert jensen_shannon([1, 0], [1, 1]) == pytest.approx(0.3112781244591328)
    assert jensen_shannon([3, 1], [1, 1]) == jensen_shannon([1, 1], [3, 1])
    assert np.isnan(jensen_shannon([0, 0], [1, 1]))


def test_bonds_and_angles_of_known_molecules() -> None:
    molecules = [molecule("H2O"), molecule("CO2"), molecule("CH4"), molecule("C6H6")]
    found = internal(molecules, check(molecules).readings)
    water, dioxide = (found.of(np.array([row])) for row in (0, 1))
    assert [bond_name(kind) for kind in water.bonds.kind.tolist()] == ["O-H", "O-H"]
    assert water.bonds.value == pytest.approx(molecules[0].get_distances(0, [1, 2]))
    assert [angle_name(kind) for kind in water.angles.kind.tolist()] == ["H-O-H"]
    assert water.angles.value == pytest.approx(molecules[0].get_angle(1, 0, 2))
    assert {bond_name(kind) for kind in dioxide.bonds.kind.tolist()} == {"C=O"}
    assert dioxide.angles.value == pytest.approx(180)
    methane, benzene = (found.of(np.array([row])) for row in (2, 3))
    assert methane.angles.value == pytest.approx(np.full(6, 109.471), abs=0.01)
    names, counts = np.unique([bond_name(kind) for kind in benzene.bonds.kind.tolist()], return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {"C-H": 6, "C:C": 6}
    assert len(benzene.angles.value) == 18
    assert len(np.unique(found.environments.kind)) == 7


def test_mmd_equals_its_definition() -> None:
    random = np.random.default_rng(3)
    first, second = np.round(random.normal(1.1, 0.02, 40), 3), np.round(random.normal(1.12, 0.05, 30), 3)

    def mean(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.exp(-GAMMAS[:, None, None] * (one[:, None] - other) ** 2).sum(axis=0).mean())

    expected = mean(first, first) + mean(second, second) - 2 * mean(first, second)
    assert mmd(first, second) == pytest.approx(expected, abs=1e-9)
    assert mmd(first, first[::-1]) == pytest.approx(0, abs=1e-12)


def test_a_stretch_is_the_distance_of_the_bonds() -> None:
    molecules = list(closed_shells().values())
    verdict = check(molecules)
    plain = internal(molecules, verdict.readings)
    stretched = [atoms.copy() for atoms in molecules]
    for atoms in stretched:
        atoms.positions *= 1.02
    longer = internal(stretched, verdict.readings)
    for kind, distance in by_kind(longer.bonds, plain.bonds).items():
        assert distance == pytest.approx(0.02 * plain.bonds.value[plain.bonds.kind == kind].mean())
    assert 0.02 < weighted(longer.bonds, plain.bonds) < 0.03
    assert weighted(longer.angles, plain.angles) == pytest.approx(0, abs=1e-6)
    assert np.isnan(weighted(longer.bonds.of(np.array([0])), plain.bonds))


def test_report_tells_good_from_bad() -> None:
    reference, good, bad = rattled(0, copies=2), rattled(1), rattled(2, 0.06)
    first, second = report(good, reference), report(bad, reference)
    for name in ("W1 bonds", "W1 angles", "MMD bonds"):
        assert second[name].value > 3 * first[name].value
        assert second[name].value > second[name].floor
    assert first["valid"].value == first["valid"].floor == pytest.approx(68 / 73)
    assert first["valid"].n == 73
    assert first["novel"].value == 0
    assert first["unique"].value == second["unique"].value == 1
    assert first["size"].value == pytest.approx(first["size"].floor)
    assert first["JS elements"].value == pytest.approx(0, abs=1e-9)
    assert first["JS elements"].floor > 0
    assert first["bond C-H"].value < 0.01 < second["bond C-H"].value
    assert {row.unit for row in first.kinds} == {"Å", "°"}


def test_report_against_held_out_and_splits() -> None:
    molecules = list(closed_shells().values())
    train, held_out = molecules[::2], molecules[1::2]
    samples = [*train[:10], *held_out[:10], molecule("CH3")]
    splits = {"train": np.arange(5), "test": np.arange(5, 10)}
    found = report(samples, train, held_out, splits=splits)
    valid = check(samples).valid
    known = int(valid[:10].sum())
    assert found["novel"].value == pytest.approx(1 - known / valid.sum())
    assert found["unseen"].value == pytest.approx(1 - int(valid[:5].sum()) / valid.sum())
    assert found["novel"].floor > 0.9
    assert found["valid, unique, novel"].value == pytest.approx((valid.sum() - known) / 21)


def test_aim_and_tables() -> None:
    reference = list(closed_shells().values())
    samples = [molecule(name) for name in ("CH4", "C2H6", "C6H6", "CH3")]

    def size(molecules: list[Atoms]) -> np.ndarray:
        sizes = np.array([len(atoms) for atoms in molecules], dtype=float)
        return np.where(sizes > 10, np.nan, sizes)

    found = report(samples, reference, aim=Aim(size, "size of it", "atoms", target=6.0, window=1.0))
    assert found["size of it hit"].value == pytest.approx(1 / 3)
    assert found["size of it hit"].n == 3
    assert found["size of it mean"].value == 6.5
    assert found["size of it spread"].value == 1.5
    assert found.values is not None
    assert found.values[0][:2].tolist() == [5.0, 8.0]
    rows = list(csv.DictReader(io.StringIO(found.table("csv", kinds=True))))
    assert list(rows[0]) == ["name", "value", "floor", "unit", "n"]
    assert float(rows[0]["value"]) == 0.75
    assert {row["name"] for row in rows} == {row.name for row in (*found.rows, *found.kinds)}
    assert "75.00 %" in found.table()
    assert "- valid: share" in found.table("markdown", explain=True)
    with pytest.raises(InputError, match="window"):
        Aim(size, target=1.0, window=0.0)


def test_summary_is_one_line() -> None:
    samples = [molecule(name) for name in ("CH4", "CH4", "H2O", "NH3", "CH3")]
    data = [molecule("H2O")]
    assert summary(samples, data) == "valid 80.0 %  unique 75.0 %  novel 66.7 %  (n = 5)"
    assert summary(samples) == "valid 80.0 %  unique 75.0 %  (n = 5)"
    assert summary([], data) == "valid -  unique -  novel -  (n = 0)"
    assert summary([molecule("CH3")], data) == "valid 0.0 %  unique -  novel -  (n = 1)"


def test_report_survives_samples_without_a_valid_one() -> None:
    found = report([molecule("CH3")], list(closed_shells().values()))
    assert found["valid"].value == 0
    assert np.isnan(found["W1 bonds"].value)
    assert found["W1 bonds"].floor > 0
    assert " - " in found.table()


def test_refusals() -> None:
    some = list(closed_shells().values())[:4]
    for arguments, words in (
        (([], some), "there are 0 samples"),
        ((some, some[:1]), "1 reference molecules"),
        ((some, [molecule("CH3")] * 2), "only 0 of 2 reference molecules are valid"),
    ):
        with pytest.raises(InputError, match=words):
            report(*arguments)
    with pytest.raises(InputError, match="verdicts on 4 of 3"):
        report(some[:3], some, validity=check(some))


def test_properties_by_xtb() -> None:
    pytest.importorskip("tblite")
    molecules = [molecule("H2O"), molecule("CH4"), Atoms("CX", [[0, 0, 0], [0, 0, 1]]), Atoms()]
    found = {name: xtb_property(name)(molecules) for name in UNITS}
    assert all(np.isnan(values[2:]).all() and np.isfinite(values[:2]).all() for values in found.values())
    assert found["gap"][:2] == pytest.approx(found["lumo"][:2] - found["homo"][:2])
    assert found["gap"][0] == pytest.approx(14.18, abs=0.01)
    assert found["energy"][:2] == pytest.approx(found["energy_per_atom"][:2] * [3, 5])
    assert found["dipole"][0] == pytest.approx(0.476, abs=0.005)
    assert found["dipole"][1] == pytest.approx(0, abs=1e-3)
    assert np.isfinite(xtb_property()([molecule("CH3")])).all()
    with pytest.raises(InputError, match="unknown property 'gab'; did you mean 'gap'"):
        xtb_property("gab")
    with pytest.raises(InputError, match="unknown method"):
        xtb_property("gap", "PM6")
