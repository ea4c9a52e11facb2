"""Verdicts in files: found again, refused where they are none, written into databases; the rows of a split."""

import json
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

pytest.importorskip("rdkit")

from megen_gym.analysis import molecule_store
from megen_gym.analysis.molecule_bonds import BondRules, Reading
from megen_gym.analysis.molecule_store import (
    annotate_db,
    by_size,
    judge,
    read_results,
    read_splits,
    write_molecules,
    write_results,
)  # fmt: skip
from megen_gym.analysis.molecule_validity import Validity, check
from megen_gym.errors import InputError

RULES = BondRules()


def some() -> list[Atoms]:
    return [molecule(name) for name in ("C6H6", "CH3", "H2O", "bicyclobutane", "CH3CONH2")]


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_results_are_not_computed_twice(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, molecules, asked = tmp_path / f"results.{ending}", some(), []
    verdict = judge(molecules, RULES, path)
    write_results(path, molecules, verdict, RULES, {"own": np.arange(5)})
    assert set(read_results(path).values()) == set(verdict.readings)

    def counted(structures: list[Atoms], **rules: object) -> Validity:
        asked.append(len(structures))
        return check(structures)

    monkeypatch.setattr(molecule_store, "check", counted)
    assert judge(molecules, RULES, path).readings == verdict.readings
    assert judge([*molecules, molecule("CH4")], RULES, path).smiles[-1] == "C"
    judge(molecules, BondRules(allow_radical_electrons=True), path)
    judge(molecules, RULES, path, force=True)
    assert asked == [0, 1, 5, 5]


def test_verdicts_that_ran_out_of_time_are_not_kept(tmp_path: Path) -> None:
    readings = (Reading(None, "timeout (2 s)"), Reading(None, "crash (exit code 9)"), Reading(None, "radical (1)"))
    path = write_results(tmp_path / "a.csv", some()[:3], Validity(readings), RULES)
    assert list(read_results(path).values()) == [readings[2]]


def test_tables_that_are_none(tmp_path: Path) -> None:
    for name, text in (("a.csv", "a,b\n1,2\n"), ("a.json", "{"), ("b.json", "[1]")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="is no table of verdicts"):
            read_results(tmp_path / name)
    with pytest.raises(InputError, match=r"ends in \.csv or \.json"):
        judge(some(), RULES, tmp_path / "a.txt", force=True) and write_results(
            tmp_path / "a.txt", some(), check(some()), RULES
        )
    with pytest.raises(InputError, match="'own' has 1 values for 5"):
        write_results(tmp_path / "a.csv", some(), check(some()), RULES, {"own": [1]})


def test_databases(tmp_path: Path) -> None:
    path, molecules = tmp_path / "valid.db", some()
    verdict = check(molecules)
    rows = np.flatnonzero(verdict.valid).tolist()
    chosen, smiles = [molecules[row] for row in rows], [verdict.smiles[row] for row in rows]
    assert by_size(molecules).tolist() == [2, 1, 4, 3, 0]
    for sort, order in ((True, ["O", "CC(N)=O", "C1[C@H]2C[C@@H]12", "c1ccccc1"]), (False, smiles)):
        write_molecules(path, chosen, smiles, sort)
        with ase.db.connect(path) as database:
            assert [row.smiles for row in database.select()] == order
            assert database.metadata["_distance_unit"] == "Ang"
    with ase.db.connect(path) as database:
        database.metadata = {"_distance_unit": "Ang", "_property_unit_dict": {"gap": "eV"}}
        database.update(1, data={"gap": np.array([4.0])})
    annotate_db(path, Validity((Reading(None, "radical"), *(Reading("CC"),) * 3)))
    with ase.db.connect(path) as database:
        found = list(database.select())
        assert [bool(row.data["validity"][0]) for row in found] == [False, True, True, True]
        assert [row.smiles for row in found] == ["", "CC", "CC", "CC"]
        assert found[0].data["gap"].tolist() == [4.0]
        assert database.metadata["_property_unit_dict"] == {"gap": "eV", "validity": "bool"}
    with pytest.raises(InputError, match="4 rows for 5 verdicts"):
        annotate_db(path, verdict)
    with pytest.raises(InputError, match="needs an ASE database"):
        annotate_db(tmp_path / "a.xyz", verdict)
    write_molecules(tmp_path / "none.db", [], [], True)
    with ase.db.connect(tmp_path / "none.db") as database:
        assert database.count() == 0


def test_splits(tmp_path: Path) -> None:
    data, path = tmp_path / "data.db", tmp_path / "split.npz"
    with ase.db.connect(data) as database:
        for atoms in some():
            database.write(atoms)
    np.savez(path, train_idx=[0, 1], val_idx=[2], test_idx=[3])
    assert {name: rows.tolist() for name, rows in read_splits(path, data).items()} == {
        "train": [0, 1], "val": [2], "test": [3]
    }  # fmt: skip
    (tmp_path / "split.json").write_text(json.dumps({"train": [4]}))
    assert read_splits(tmp_path / "split.json", data)["train"].tolist() == [4]
    connectivity = {"placement_cutoff": 1.7, "use_covalent_radii": True, "covalent_radius_factor": 1.1}
    np.savez(path, train_idx=[0, 1], val_idx=[2], test_idx=[3], **connectivity)
    with pytest.raises(InputError, match=r"under 1.7/True/1.1, which the metadata"):
        read_splits(path, data)
    with ase.db.connect(data) as database:
        database.metadata = {"disconnected_idx": {"1.7/True/1.1": [1]}}
    assert [rows.tolist() for rows in read_splits(path, data).values()] == [[0, 2], [3], [4]]
    np.savez(path, other=[1])
    for name, words in (("split.npz", "none of train_idx"), ("data.db", "cannot be read"), ("no.npz", "not exist")):
        with pytest.raises(InputError, match=words):
            read_splits(tmp_path / name, data)
