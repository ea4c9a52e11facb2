"""``python -m megen_gym analyse``: as a user calls it."""

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from megen_gym import io
from megen_gym.__main__ import main, named
from megen_gym.analysis.analyse import analyse
from megen_gym.analysis.energies import energy_metrics, reference_energies, relaxed_energies
from megen_gym.analysis.ensemble import Reference
from megen_gym.analysis.journal import Record
from megen_gym.errors import InputError
from megen_gym.io import read_structures, write_structures

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "megen_gym" / "data" / "cuau_interface.extxyz"
QUICK = {"soap": False, "n_reps": 20, "progress": False}


def command(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "megen_gym", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    """Eight structures with noise, then one that has collapsed."""
    structures = read_structures(BUNDLED)[:9]
    for index, atoms in enumerate(structures):
        atoms.calc = None
        atoms.rattle(0.1, seed=index)
    structures[-1].positions[:] = structures[-1].positions[0] + np.random.default_rng(0).normal(0, 0.02, (16, 3))
    return write_structures(tmp_path_factory.mktemp("made") / "generated.extxyz.gz", structures)


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["metric"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_command_line(generated, tmp_path):
    out = tmp_path / "out"
    options = ("--reference", BUNDLED, "--relax", "emt", "--steps", 15, "--out", out, "--progress", "false")
    done = command("analyse", generated, *options)
    assert done.returncode == 0, done.stderr
    assert "9 structures of" in done.stdout
    assert "| metric" in done.stdout
    rows = table(out / "comparison.csv")
    assert float(rows["valid"]["value"]) == pytest.approx(8 / 9)
    assert float(rows["valid after relaxing"]["value"]) == pytest.approx(8 / 9)
    assert float(rows["relaxation failed"]["value"]) == 0
    assert float(rows["energy relaxed, median of valid"]["value"]) == pytest.approx(0.2, abs=0.03)
    assert float(rows["energy relaxed, median of valid"]["floor"]) == pytest.approx(0.2, abs=0.01)
    assert 0 < float(rows["SOAP"]["floor"]) < float(rows["SOAP"]["value"])
    for name in ("neighbours", "heights", "rdf", "angles", "energies"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
        assert f"{name}.png" in done.stdout
    journal = (out / "relax_journal_1of1.extxyz").read_bytes()
    again = command("analyse", generated, *options)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert (out / "relax_journal_1of1.extxyz").read_bytes() == journal


def test_a_hole_of_the_potential_is_not_low_in_energy():
    """Overlapping atoms far below the data in energy, as EMT makes them of a collapsed generator."""
    data = read_structures(BUNDLED)
    heap = data[0].copy()
    heap.positions[:] = heap.positions[0] + np.random.default_rng(0).normal(0, 0.3, (16, 3))
    best = Record(0, data[0], 5.0, io.energy_of(data[0]), 3, 0.01, True, 0.1)
    hole = Record(1, heap, 5.0, -33.0 * 16, 3, 0.01, True, 0.1)
    high = Record(2, data[1], 5.0, 9.0, 3, 0.01, True, 0.1)
    lost = Record(3, data[2], 5.0, np.nan, 0, np.nan, False, np.nan, "no convergence")
    energies = relaxed_energies([best, hole, high, lost], Reference(data), reference_energies(data))
    assert energies.valid.tolist() == [True, False, True, False]
    assert energies.failed.tolist() == [False, False, False, True]
    assert energies.low.tolist() == [True, False, False, False]
    values = {metric.name: metric.value() for metric in energy_metrics(energies)}
    assert values["valid and energy below the data's highest"] == 0.25
    assert values["energy relaxed, median of valid"] == pytest.approx((best.energy + 9.0) / 32)
    assert values["relaxation failed"] == 0.25
    assert values["W1 energy of valid"] < 1


def test_moved_apart_first(generated, tmp_path, capsys):
    analyse(generated, BUNDLED, tmp_path, apart=2.0, **QUICK)
    counts = (tmp_path / "too_close_count.csv").read_text().splitlines()
    assert len(counts) == 10
    assert int(counts[9].split(",")[1]) == 16 * 15 // 2
    rows = table(tmp_path / "comparison.csv")
    failed = float(rows["not to be moved apart"]["value"])
    assert failed == sum(line.endswith("True") for line in counts) / 9
    assert float(rows["pairs < 1.5 Å"]["value"]) == 0
    assert "too_close_count.csv" in capsys.readouterr().out


def test_alloy(tmp_path):
    sites = bulk("Ni", cubic=True, a=3.6).repeat(3)
    rng = np.random.default_rng(0)
    made = []
    for _ in range(6):
        atoms = sites.copy()
        atoms.symbols[rng.permutation(108)[:54]] = "Fe"
        atoms.positions += rng.normal(0, 0.1, (108, 3))
        made.append(atoms)
    for name, chosen in (("sites", [sites]), ("made", made[:3]), ("data", made[3:])):
        write_structures(tmp_path / f"{name}.extxyz", chosen)
    (tmp_path / "eci.json").write_text(json.dumps({"constant": -1.0, "1NN Fe-Ni": 0.1}))
    files = {"sites": tmp_path / "sites.extxyz", "ecis": tmp_path / "eci.json"}
    analyse(tmp_path / "made.extxyz", tmp_path / "data.extxyz", tmp_path / "out", angles=False, **files, **QUICK)
    rows = table(tmp_path / "out" / "comparison.csv")
    assert float(rows["rejected by lattice"]["value"]) == 0
    assert 0 < float(rows["cluster probabilities"]["value"]) < 0.2
    assert float(rows["cluster-expansion energy"]["value"]) == pytest.approx(-1 + 0.1 * 6 * 0.5, abs=0.05)
    lines = (tmp_path / "out" / "clusters.csv").read_text().splitlines()
    assert lines[1] == "probability,0NN Fe,0.5,0.5"
    assert any(line.startswith("warren_cowley,1NN Fe-Ni") for line in lines)
    assert (tmp_path / "out" / "short_range_order.png").exists()
    assert (tmp_path / "out" / "cluster_expansion.png").exists()


@pytest.mark.slow
def test_motifs(generated, tmp_path):
    pytest.importorskip("matminer")
    analyse(generated, BUNDLED, tmp_path, motifs=2, **QUICK)
    rows = table(tmp_path / "comparison.csv")
    assert 0 < float(rows["motifs all"]["value"]) < 2
    assert (tmp_path / "motifs.png").exists()
    assert "Cu," in (tmp_path / "motifs.csv").read_text()


def test_folders(generated, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    for index, atoms in enumerate(read_structures(generated, check=False)[:3]):
        write_structures(tmp_path / "a" / f"{index}.extxyz", [atoms])
    analyse(tmp_path / "a", BUNDLED, **QUICK)
    assert capsys.readouterr().out.startswith("3 structures of")


def stretched(atoms: Atoms) -> None:
    atoms.cell[2, 2] += 0.1


def gilded(atoms: Atoms) -> None:
    atoms.symbols[0] = "Au"


def shorter(atoms: Atoms) -> None:
    del atoms[-1]


def torn(atoms: Atoms) -> None:
    atoms.positions[3, 1] = np.nan


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (stretched, "has the cell"),
        (gilded, "is Au9Cu7 instead of Au8Cu8"),
        (shorter, "is Au7Cu8 instead of Au8Cu8"),
        (torn, "has positions that are NaN"),
    ],
)
def test_a_wrong_structure_is_named(tmp_path, spoil, message):
    structures = read_structures(BUNDLED)[:3]
    spoil(structures[1])
    for atoms in structures:
        atoms.calc = None
    path = tmp_path / "wrong.extxyz"
    path.write_text("")
    from ase.io import write

    write(path, structures, format="extxyz")
    with pytest.raises(InputError, match=f"^structure 1 of {path} {message}"):
        analyse(path, BUNDLED, **QUICK)


def test_bad_input_is_one_sentence(tmp_path):
    (tmp_path / "empty.extxyz").write_text("")
    with gzip.open(tmp_path / "cut.extxyz.gz", "wt") as file:
        file.write(BUNDLED.read_text()[:1500])
    for words, message in (
        (("analyse", tmp_path / "none.extxyz", "--reference", BUNDLED), "does not exist"),
        (("analyse", BUNDLED, "--reference", tmp_path / "empty.extxyz"), "is empty"),
        (("analyse", BUNDLED), "reference"),
    ):
        done = command(*words)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert message in done.stderr
    with pytest.raises(InputError, match="the file was cut short"):
        analyse(tmp_path / "cut.extxyz.gz", BUNDLED, **QUICK)
    with pytest.raises(InputError, match="add --out"):
        analyse(BUNDLED, BUNDLED, relax="emt", **QUICK)
    with pytest.raises(InputError, match="add --sites"):
        analyse(BUNDLED, BUNDLED, ecis=tmp_path / "eci.json", **QUICK)
    with pytest.raises(InputError, match="did you mean 'emt'"):
        analyse(BUNDLED, BUNDLED, tmp_path / "out", relax="emtt", **QUICK)
    assert not (tmp_path / "out").exists()


def test_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("kept")
    for options, message in (
        ({"seed": -1}, "seed -1, .*give a seed of 0 or more"),
        ({"n_reps": 0}, "1 resample or more"),
        ({"conf_level": 95}, "confidence between 0 and 1"),
        ({"out": tmp_path / "file"}, "file cannot be a folder to write to"),
        ({"out": Path("/proc/x")}, "/proc/x cannot be a folder to write to"),
    ):
        with pytest.raises(InputError, match=message):
            analyse(BUNDLED, BUNDLED, **(QUICK | options))
    assert (tmp_path / "file").read_text() == "kept"


def test_sites_in_another_cell_are_named(tmp_path):
    sites = read_structures(BUNDLED)[0]
    sites.set_cell(sites.cell.array + np.diag([0.0, 0.0, 3.0]))
    sites.pbc = False
    write_structures(tmp_path / "sites.extxyz", [sites])
    with pytest.raises(InputError, match=r"structure 0 has the cell .* the lattice sites have .*16.61"):
        analyse(BUNDLED, BUNDLED, sites=tmp_path / "sites.extxyz", **QUICK)


def test_files_come_first():
    for words in (
        ["--progress", "false", "a.xyz"],
        ["--seed=1", "a.xyz", "--axis", "1"],
        ["b.xyz", "--seed", "-1", "a"],
    ):
        with pytest.raises(InputError, match=r"'a(\.xyz)?' stands after an option .* put files first"):
            named(words, ["generated", "reference"])
    assert named(["a", "--seed", "-1", "--help"], ["generated"])[1:] == ["--seed", "-1", "--help"]


def test_commands(capsys):
    main([])
    assert "analyse" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["analyze", "a.xyz"])
    assert stopped.value.code == 2
    assert "did you mean 'analyse'" in capsys.readouterr().err
    with pytest.raises(InputError, match="expected at most 1"):
        named(["a", "b"], ["generated"])
