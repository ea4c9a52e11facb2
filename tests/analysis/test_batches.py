"""Relaxation of many structures: exact after a kill, robust against calculators that die, shared among jobs."""

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms

from megen_gym.analysis.batches import DISCARDED, RELAXED, RESULTS, collect, relax_in_batches
from megen_gym.errors import InputError
from megen_gym.io import append_structures, read_structures

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "megen_gym" / "data" / "cuau_interface.extxyz"


DEADLY = '''
import os, signal, time
from ase.calculators.lj import LennardJones

class Deadly(LennardJones):
    """Kills its process for three atoms, sleeps for four, raises for five."""

    def calculate(self, atoms=None, *args, **kwargs):
        if len(atoms) == 3:
            os.kill(os.getpid(), signal.SIGSEGV)
        if len(atoms) == 4:
            time.sleep(60)
        if len(atoms) == 5:
            raise RuntimeError("no convergence")
        super().calculate(atoms, *args, **kwargs)
'''


@pytest.fixture(scope="module")
def structures():
    found = read_structures(BUNDLED)[:6]
    for index, atoms in enumerate(found):
        atoms.rattle(0.1, seed=index)
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_results(structures, tmp_path):
    records = relax_in_batches(structures, tmp_path, "emt", steps=20, fmax=0.3, workers=2, progress=False)
    table = rows(tmp_path / RESULTS)
    assert [int(row["structure"]) for row in table] == list(range(6))
    assert not rows(tmp_path / DISCARDED)
    for record, row, atoms in zip(records, table, read_structures(tmp_path / RELAXED), strict=True):
        assert record.energy < record.before
        assert float(row["energy_per_atom"]) == pytest.approx(record.energy / 16)
        assert atoms.get_potential_energy() == pytest.approx(record.energy, abs=1e-6)
        assert float(row["fmax"]) == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max(), abs=1e-6)
        assert (row["converged"] == "True") == (record.fmax < 0.3)
        assert 0.05 < record.displacement < 0.5
        np.testing.assert_allclose(atoms.cell.array, structures[0].cell.array, atol=1e-8)
    discarded = [record for record in collect(tmp_path, soft_fmax=0.2) if record.error]
    assert {record.structure for record in discarded} == {r.structure for r in records if r.fmax > 0.2}
    assert len(rows(tmp_path / DISCARDED)) == len(discarded) > 0
    assert "eV/Å after" in discarded[0].error


def test_a_killed_run_goes_on_exactly(structures, tmp_path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    relax_in_batches(structures, whole, "emt", steps=15, progress=False)
    code = (
        "import sys; from pathlib import Path; from megen_gym.analysis.batches import relax_in_batches;"
        "from megen_gym.io import read_structures\n"
        "found = read_structures(sys.argv[1])[:6]\n"
        "for index, atoms in enumerate(found): atoms.rattle(0.1, seed=index)\n"
        "relax_in_batches(found, sys.argv[2], 'emt', steps=15, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(BUNDLED), str(torn)], cwd=ROOT)
    journal = torn / "relax_journal_1of1.extxyz"
    for _ in range(600):
        if journal.exists() and journal.stat().st_size:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert journal.stat().st_size
    with journal.open("a") as file:
        file.write("16\nLattice=torn")
    relax_in_batches(structures, torn, "emt", steps=15, progress=False)
    for name in (RESULTS, DISCARDED, RELAXED):
        assert (torn / name).read_bytes() == (whole / name).read_bytes(), name
    assert not rows(torn / DISCARDED)


def test_what_is_done_is_not_done_again(structures, tmp_path):
    relax_in_batches(structures[:2], tmp_path, "emt", steps=3, progress=False)
    journal = tmp_path / "relax_journal_1of1.extxyz"
    before = journal.read_bytes()
    relax_in_batches(structures[:2], tmp_path, "emt", steps=3, progress=False)
    assert journal.read_bytes() == before


def test_crashes_cost_one_structure_each(tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    chains = [Atoms(f"Ga{n}", [[2.6 * i, 0, 0] for i in range(n)]) for n in (2, 3, 4, 5, 6)]
    options = {"steps": 2, "time_limit": 3.0, "progress": False}
    records = relax_in_batches(chains, tmp_path, "deadly.Deadly", {"sigma": 2.4}, **options)
    assert [bool(record.error) for record in records] == [False, True, True, True, False]
    assert "SIGSEGV" in records[1].error
    assert "within 3.0 s" in records[2].error
    assert records[3].error == "RuntimeError: no convergence"
    assert [row["structure"] for row in rows(tmp_path / DISCARDED)] == ["1", "2", "3"]
    assert [atoms.info["structure"] for atoms in read_structures(tmp_path / RELAXED)] == [0, 4]


def test_parts_share_the_work(structures, tmp_path):
    first = relax_in_batches(structures[:5], tmp_path, "emt", steps=2, part="1/2", progress=False)
    assert [record.structure for record in first] == [0, 2, 4]
    both = relax_in_batches(structures[:5], tmp_path, "emt", steps=2, part="2/2", progress=False)
    assert [record.structure for record in both] == [0, 1, 2, 3, 4]


def test_constraints_hold(structures, tmp_path):
    fixed = structures[0].copy()
    fixed.set_constraint(FixAtoms([0, 1]))
    record = relax_in_batches([fixed], tmp_path, "emt", steps=5, progress=False)[0]
    np.testing.assert_allclose(record.atoms.positions[:2], fixed.positions[:2], atol=1e-7)
    assert record.displacement > 0.01


def test_single_points(structures, tmp_path):
    record = relax_in_batches(structures[:1], tmp_path, "emt", steps=0, progress=False)[0]
    assert record.energy == pytest.approx(record.before, abs=1e-6)
    assert record.steps == 0


def test_refusals(structures, tmp_path):
    relax_in_batches(structures[:1], tmp_path, "emt", steps=1, progress=False)
    with pytest.raises(InputError, match="another steps"):
        relax_in_batches(structures[:1], tmp_path, "emt", steps=2, progress=False)
    with pytest.raises(InputError, match="another structures"):
        relax_in_batches(structures[:2], tmp_path, "emt", steps=1, progress=False)
    with pytest.raises(InputError, match="part '3/2'"):
        relax_in_batches(structures[:1], tmp_path, "emt", part="3/2", progress=False)
    with pytest.raises(InputError, match="did you mean 'emt'"):
        relax_in_batches(structures[:1], tmp_path / "other", "emtt", progress=False)
    with pytest.raises(InputError, match="fmax"):
        relax_in_batches(structures[:1], tmp_path, "emt", fmax=0, progress=False)
    with pytest.raises(InputError, match="no structures"):
        relax_in_batches([], tmp_path, "emt", progress=False)
    append_structures(tmp_path / "relax_journal_1of1.extxyz", [])
    assert not (tmp_path / "other").exists()
