"""The script that judges molecules."""

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.collections import g2
from ase.io import write

pytest.importorskip("rdkit")

from megen_gym.agents.gschnet.evaluate import Settings, evaluate

SCRIPT = Path(__file__).resolve().parents[2] / "agents" / "gschnet" / "evaluate.py"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    names = [name for name in g2.names if set(molecule(name).symbols) <= set("CHO")]
    real = [molecule(name) for name in names]
    made = [atoms.copy() for atoms in real[::2]]
    random = np.random.default_rng(0)
    for atoms in made:
        atoms.positions += random.normal(size=atoms.positions.shape) * 0.02
    data, reference = tmp_path / "made.db", tmp_path / "real.extxyz"
    with ase.db.connect(data) as database:
        for atoms in [*made, made[0], Atoms("C2", [[0, 0, 0], [0, 0, 9]])]:
            database.write(atoms)
    write(reference, real, format="extxyz")
    return data, reference


def test_all_that_is_written(files: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("tblite")
    caplog.set_level("INFO")
    data, reference = files
    folder = data.parent
    split = folder / "split.npz"
    np.savez(split, train_idx=[0, 2], val_idx=[4], test_idx=[6, 8])
    settings = Settings(
        data=data, compare_db_path=reference, compare_db_split_path=split, compare_db_results_path="auto",
        output=folder / "out", results_path="auto", results_db_path="auto", write_to_input_db=True,
        ignore_enantiomers=True, property="gap", target=6.0, window=2.0, progress=False,
    )  # fmt: skip
    verdict, report = evaluate(settings)
    printed = caplog.messages
    assert printed[-1].startswith(f"valid {100 * verdict.valid.mean():.1f} %  unique ")
    assert printed[-1].endswith(f"(n = {len(verdict)})")
    assert any("invalid: disconnected" in line for line in printed)
    assert report is not None
    assert 0 < report["gap hit"].value <= 1
    assert report["unseen"].value >= report["novel"].value
    assert {path.name for path in (folder / "out").iterdir()} == {
        "report.md", "report.csv", "report.png", "molecules.csv"
    }  # fmt: skip
    assert (folder / "out" / "report.png").read_bytes()[:4] == b"\x89PNG"
    with (folder / "out" / "molecules.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["valid"]) for row in rows] == verdict.valid.astype(int).tolist()
    assert rows[-2]["same_as"] == "0"
    assert rows[-1]["reason"].startswith("disconnected")
    assert {"R3", "R8+", "split", "reference_row"} <= set(rows[0])
    assert (folder / "made_validity.csv").exists()
    assert (folder / "real_validity.csv").exists()
    unique = sum(int(row["unique"]) for row in rows)
    with ase.db.connect(folder / "made_valid.db") as database:
        sizes = [row.natoms for row in database.select()]
    assert len(sizes) == unique
    assert sizes == sorted(sizes)
    with ase.db.connect(data) as database:
        assert [bool(row.data["validity"][0]) for row in database.select()] == verdict.valid.tolist()
    again, _ = evaluate(replace(settings, property=None, target=None, write_to_input_db=False))
    assert again.readings == verdict.readings


def test_without_reference(files: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    data, _ = files
    verdict, report = evaluate(Settings(data=data, progress=False, compute_ring_statistics=False))
    assert report is None
    line = caplog.messages[-1]
    assert "novel" not in line
    assert line.endswith(f"(n = {len(verdict)})")
    folder = data.parent / "made_evaluation"
    assert {path.name for path in folder.iterdir()} == {"molecules.csv", "report.png"}
    assert "R3" not in (folder / "molecules.csv").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": Path("missing.db")}, "missing.db does not exist"),
        ({"target": 4.0}, "without its property"),
        ({"property": "gap"}, "give --reference too"),
        ({"compare_db_path": Path("other.db"), "reference": Path("a.db")}, "they mean the same"),
        ({"allowed_charges": [1]}, "without charged fragments"),
        ({"results_path": "a.npz"}, "ends in .csv or .json"),
        ({"results_db_path": "a.xyz"}, "ends in .db"),
        ({"results_db_path": "DATA"}, "would replace a file"),
        ({"data": Path("a.xyz"), "write_to_input_db": True}, "needs an ASE database"),
        ({"timeout": -1.0}, "seconds >= 0"),
    ],
)
def test_refusals(
    files: tuple[Path, Path], changes: dict[str, object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, _ = files
    if changes.get("results_db_path") == "DATA":
        changes = {"results_db_path": str(data)}
    with pytest.raises(SystemExit) as stopped:
        evaluate(replace(Settings(data=data, progress=False), **changes))
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert error.startswith("error: ")
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_command_line(files: tuple[Path, Path]) -> None:
    data, reference = files
    command = [sys.executable, str(SCRIPT), "--data", str(data), "--reference", str(reference)]
    done = subprocess.run([*command, "--allowed_charges", "[0,1]"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith("valid ")
    assert "validity" in done.stderr
    wrong = subprocess.run([*command, "--property", "colour"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "colour" in wrong.stderr
