"""``python structures.py`` and ``python plot.py`` on a fabricated run folder."""

import subprocess
import sys
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms
from ase.io import read

from megen_gym import io, runs
from megen_gym.analysis.export import bare_flags, export_structures
from megen_gym.errors import InputError
from megen_gym.runs import Run

ROOT = Path(__file__).resolve().parents[1]
A = 2.6
TETRAHEDRON = Atoms("Ga4", np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]]) * A / np.sqrt(2))
TRIMER, OTHER = TETRAHEDRON[:3], Atoms("Ga3", [[0, 0, 0], [2.9, 0, 0], [1.45, 2.2, 0]])


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A trimer, its mirror image, lower in energy, another, an unchanged seed, an overlap, a chain, a tetramer."""
    run = runs.create(tmp_path / "runs", {"name": "ppo", "symbols": "X,Ga"})
    mirror = TRIMER.copy()
    mirror.positions = -mirror.positions[::-1] + 3
    overlap = TRIMER.copy()
    overlap.positions[1] = overlap.positions[0] + 0.1
    loose = Atoms("Ga3", [[0, 0, 0], [2.6, 0, 0], [5.2, 0, 0]])
    structures = [TRIMER, mirror, OTHER, TRIMER, overlap, loose, TETRAHEDRON]
    energies = [-3.0, -3.1, -2.5, -9.0, -99.0, -1.0, np.nan]
    n_start = [0, 2, 2, 3, 2, 2, 3]
    valid = [True, True, True, False, False, False, True]
    info = {"energy": energies, "n_start": n_start, "valid": valid, "step": [64] * 7, "reward": [0.1] * 7}
    io.append_structures(run.path / "structures_eval.extxyz", structures, info | {"policy": ["covariant"] * 7})
    io.append_structures(run.path / "structures_train.extxyz", [OTHER], {"n_start": [2], "policy": ["mlp"]})
    for iteration in (1, 2, 3):
        run.append_metrics(iteration, {"steps": 64 * iteration, "return_mean": 0.1})
    return run


@pytest.mark.slow
def test_the_two_commands(run, tmp_path):
    done = script("structures.py", "--dir", run.path.parent, "--symbols=X,Ga", "--unique", "--valid_only")
    assert done.returncode == 0, done.stderr
    made = read(run.path / "structures_eval.xyz", ":")
    assert [round(io.energy_of(atoms), 3) for atoms in made[:2]] == [-3.1, -2.5]
    assert [len(atoms) for atoms in made] == [3, 3, 4]
    for line in (
        "unchanged seed",
        "overlap",
        "not valid",
        "duplicate",
        "written",
    ):
        assert line in done.stdout
    assert "covariant" in done.stdout
    assert done.stdout.splitlines()[2].split() == ["read", "7"]
    done = script("plot.py", "--dir", run.path.parent)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_file()
    for name, argument in (("structures.py", "--symbols=X,Ga"), ("plot.py", "--mode=all")):
        done = script(name, "--dir", tmp_path / "none", argument)
        assert done.returncode == 2
        assert "train one first" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_all_formats_and_relaxation(run, capsys):
    out = run.path.parent / "out"
    export_structures(
        str(run.path), symbols="X,Ga", mode="all", canvas_size=3, relax="lj", unique="soap", valid_only=True,
        output=out / "a.extxyz", poscar=out / "vasp", cif=out / "cif", db=out / "all.db", fmax=0.01, relax_steps=500,
    )  # fmt: skip
    made = io.read_structures(out / "a.extxyz")
    assert [len(atoms) for atoms in made] == [3]
    assert made[0].get_all_distances()[0, 1] == pytest.approx(2.361 * 2 ** (1 / 6), abs=0.02)
    assert made[0].info["run"] == run.id
    assert len(io.read_structures(out / "vasp")) == len(io.read_structures(out / "cif")) == 1
    assert ase.db.connect(out / "all.db").count(run=run.id) == 1
    text = capsys.readouterr().out
    assert "larger than canvas_size" in text
    assert "duplicate after relaxing" in text


def test_unchanged_seeds_are_never_written(run):
    export_structures(str(run.path))
    assert -9.0 not in [io.energy_of(atoms) for atoms in io.read_structures(run.path / "structures_eval.xyz")]
    io.write_structures(run.path / "structures_eval.extxyz", [TRIMER, OTHER], {"n_start": [3, 3]})
    before = (run.path / "structures_eval.xyz").read_bytes()
    with pytest.raises(InputError, match=r"left to write .*2 unchanged seed"):
        export_structures(str(run.path))
    assert (run.path / "structures_eval.xyz").read_bytes() == before


def test_run_still_being_written(run):
    with (run.path / "structures_eval.extxyz").open("a") as file:
        file.write("3\nProperties=species:S:1:pos:R:3 n_st")
    export_structures(str(run.path))
    assert len(io.read_structures(run.path / "structures_eval.xyz")) == 5


def test_bad_input(run, monkeypatch):
    folder = str(run.path)
    with pytest.raises(InputError, match="builds with Ga, which --symbols=X,Al does not name"):
        export_structures(folder, symbols="X,Al")
    with pytest.raises(InputError, match="unknown element 'Qq'"):
        export_structures(folder, symbols="X,Qq")
    with pytest.raises(InputError, match="holds what the run built"):
        export_structures(folder, output=run.path / "structures_eval.extxyz")
    with pytest.raises(InputError, match=r"ends in \.db"):
        export_structures(folder, db=run.path / "a.json")
    with pytest.raises(InputError, match="no run 'nothing'"):
        export_structures(str(run.path.parent), name="nothing")
    monkeypatch.setitem(sys.modules, "tblite.ase", None)
    with pytest.raises(InputError, match="pip install"):
        export_structures(folder, relax="tblite")
    with pytest.raises(InputError, match=r"is left to write .*not relaxed, e\.g\. .*Ga"):
        export_structures(folder, relax="emt")
    io.write_structures(run.path / "structures_eval.extxyz", [TRIMER])
    with pytest.raises(InputError, match="n_start"):
        export_structures(folder)
    (run.path / "structures_eval.extxyz").unlink()
    with pytest.raises(InputError, match=r"it has structures_train\.extxyz: choose another --mode"):
        export_structures(folder)
    assert not list(run.path.glob("*.xyz"))


def test_bare_flags():
    assert bare_flags(["--unique", "soap", "--valid_only"]) == ["--unique", "soap", "--valid_only=true"]
    assert bare_flags([]) == []


def test_a_newer_run_that_builds_nothing_in_episodes_is_passed_over(run, tmp_path):
    assert runs.create(run.path.parent, {"name": "generator", "seed": 0}).id != run.id
    export_structures(dir=str(run.path.parent), symbols="X,Ga")
    assert (run.path / "structures_eval.xyz").is_file()
