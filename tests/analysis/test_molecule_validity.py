"""Which molecules are valid, which are the same, and a time limit that holds."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.collections import g2
from ase.io import read

pytest.importorskip("rdkit")

from megen_gym.analysis import molecule_children
from megen_gym.analysis.molecule_bonds import BondRules, Undecided, read_bonds
from megen_gym.analysis.molecule_children import read_in_children
from megen_gym.analysis.molecule_identity import identify, keys
from megen_gym.analysis.molecule_validity import check
from megen_gym.errors import InputError

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "molecules_train.extxyz.gz"
CHARGED = {"CO", "CH3NO2", "O3", "N2O"}
"""Closed shells of the G2 set that have no structure without formal charges."""


def organic() -> dict[str, Atoms]:
    found = {name: molecule(name) for name in g2.names}
    return {name: atoms for name, atoms in found.items() if set(atoms.symbols) <= set("CHONF")}


def closed_shells() -> dict[str, Atoms]:
    return {name: atoms for name, atoms in organic().items() if not atoms.get_initial_magnetic_moments().any()}


def polynitrogen(n: int = 25) -> Atoms:
    """A ring of an odd number of nitrogen atoms: 2^n combinations of valences, none of which is good."""
    angle = 2 * np.pi * np.arange(n) / n
    circle = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    return Atoms(f"N{n}", circle * 0.7 / np.sin(np.pi / n))


def halomethane(mirrored: bool) -> Atoms:
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
    positions = np.vstack([np.zeros(3), corners * np.array([1.09, 1.38, 1.76, 1.94])[:, None]])
    return Atoms("CHFClBr", positions * (np.array([-1, 1, 1]) if mirrored else 1))


def test_closed_shells_of_g2_are_valid_except_those_that_need_charges() -> None:
    found = closed_shells()
    verdict = check(list(found.values()))
    invalid = {name for name, good in zip(found, verdict.valid, strict=True) if not good}
    assert invalid == CHARGED | {"CH2_s1A1d"}
    assert verdict.valid.sum() == len(verdict) - 5 == 68
    names = dict(zip(found, verdict.smiles, strict=True))
    expected = {"C6H6": "c1ccccc1", "CH3CONH2": "CC(N)=O", "C5H8": "C1CC12CC2", "NCCN": "N#CC#N", "H2O": "O"}
    assert {name: names[name] for name in expected} == expected
    charged = check([found[name] for name in CHARGED], allow_charged_fragments=True)
    assert charged.valid.all()


def test_radicals_charges_and_pieces() -> None:
    methyl, methane = molecule("CH3"), molecule("CH4")
    far = methane.copy()
    far.translate([8.0, 0, 0])
    broken = methane.copy()
    broken.positions[1] *= 3
    crowded = Atoms("CH5", np.vstack([np.zeros(3), np.eye(3), -np.eye(3)[:2]]))
    bad = [methyl, methane + far, broken, crowded, Atoms(), Atoms("CX", [[0, 0, 0], [0, 0, 1]])]
    lost = methane.copy()
    lost.positions[0, 0] = np.nan
    verdict = check([*bad, lost])
    words = [reason.partition(" (")[0] for reason in verdict.reason]
    assert words == ["radical", "disconnected", "disconnected", "valence", "no atoms", "unknown element", "not finite"]
    assert not verdict.valid.any()
    assert set(verdict.smiles) == {None}
    assert sum(verdict.reasons.values()) == 7
    assert check([methyl], allow_radical_electrons=True).smiles == ["[CH3]"]
    assert check([methyl], allow_charged_fragments=True).valid.tolist() == [False]
    ions = check([methyl], allow_charged_fragments=True, allowed_charges=(0, -1, 1))
    assert ions.smiles[0] is not None
    assert check([]).valid.shape == (0,)


def test_refusals() -> None:
    crystal = Atoms("C", cell=[3, 3, 3], pbc=True)
    for arguments, words in (
        ({"structures": [molecule("CH4"), crystal]}, "structure 1 is periodic"),
        ({"structures": [], "allowed_charges": (1,)}, "without charged fragments"),
        ({"structures": [], "allowed_charges": ()}, "give whole numbers"),
        ({"structures": [], "workers": 0}, "at least 1 worker"),
        ({"structures": [], "timeout": -1.0}, "seconds >= 0"),
    ):
        with pytest.raises(InputError, match=words):
            check(**arguments)


def test_missing_rdkit_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "rdkit"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"megen-gym\[molecules\]"):
        check([molecule("CH4")])


def children(pid: int | str = "self") -> set[str]:
    found: set[str] = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread may have ended
            found.update(task.read_text().split())
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_a_time_limit_stops_rdkit_and_costs_one_molecule(workers: int) -> None:
    hanging = polynitrogen()
    with pytest.raises(Undecided):
        read_bonds(hanging.numbers, hanging.positions, BondRules(), tries=100)
    good = [molecule("CH4"), molecule("C6H6")]
    before, start = children(), time.monotonic()
    verdict = check([good[0], hanging, good[1]], timeout=0.4, workers=workers)
    assert time.monotonic() - start < 60
    assert verdict.smiles == ["C", None, "c1ccccc1"]
    assert verdict.reason[1] == "timeout (0.4 s)"
    assert children() <= before


def test_many_molecules_in_children_equal_those_in_process() -> None:
    molecules = list(organic().values())
    assert check(molecules, workers=2).readings == check(molecules).readings


def test_small_odd_rings_are_decided_without_a_limit() -> None:
    verdict = check([polynitrogen(5)], timeout=None)
    assert verdict.reason[0].startswith("radical")


def serve_and_crash() -> None:
    read = molecule_children.read_bonds
    molecule_children.read_bonds = lambda n, p, r: os._exit(9) if n == [2] else read(n, p, r)
    molecule_children.serve()


def test_a_crash_costs_one_molecule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(molecule_children, "SERVE", f"{__name__}:serve_and_crash")
    given = list(enumerate([molecule("CH4"), Atoms("He"), molecule("H2O")]))
    found = dict(read_in_children(given, BondRules(), 20.0))
    assert [found[row].smiles for row in range(3)] == ["C", None, "O"]
    assert found[1].reason == "crash (exit code 9)"


def serve_nothing() -> None:
    raise SystemExit(3)


def test_children_that_cannot_start_do_not_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(molecule_children, "SERVE", f"{__name__}:serve_nothing")
    with pytest.raises(RuntimeError, match="exit code 3"):
        list(read_in_children([(0, molecule("CH4"))], BondRules(), 1.0))


def test_a_child_ends_by_itself_when_its_parent_was_killed() -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; from test_molecule_validity import polynitrogen; "
        "from megen_gym.analysis.molecule_validity import check; check([polynitrogen()], timeout=3.0)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent)])
    pids: list[str] = []
    deadline = time.monotonic() + 60
    while not pids and time.monotonic() < deadline:
        time.sleep(0.05)
        pids = list(children(parent.pid))
    assert pids
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while Path(f"/proc/{pids[0]}").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{pids[0]}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break
        time.sleep(0.1)
    assert time.monotonic() < deadline


def test_enantiomers_and_isomers() -> None:
    left, right = check([halomethane(False), halomethane(True)]).smiles
    assert left != right
    assert len(set(keys([left, right], ignore_enantiomers=True))) == 1
    meso, one, mirrored = "C[C@H](F)[C@@H](F)C", "C[C@H](F)[C@H](F)C", "C[C@@H](F)[C@@H](F)C"
    first, second, third = keys([meso, one, mirrored], ignore_enantiomers=True)
    assert second == third != first
    trans, cis = "F/C=C/F", "F/C=C\\F"
    assert len(set(keys([trans, cis], ignore_enantiomers=True))) == 2
    assert keys([trans, cis, None, "CC"], ignore_isomerism=True) == ["FC=CF", "FC=CF", None, "CC"]
    assert keys(["[H]/N=C/C"], ignore_isomerism=True) == keys(["CC=N"], ignore_isomerism=True)
    with pytest.raises(InputError, match="no SMILES"):
        keys(["C/not"], ignore_isomerism=True)


def test_membership_of_splits() -> None:
    own, data = ["A", "B", "A", None, "C", "D"], ["B", "C", "B", None, "D"]
    found = identify(own, data)
    assert found.unique.tolist() == [True, True, False, False, True, True]
    assert found.known.tolist() == [-1, 0, -1, -1, 1, 4]
    assert found.novel.tolist() == found.unseen.tolist() == [True, False, False, False, False, False]
    split = identify(own, data, {"train": [2], "val": [1], "test": [0]})
    assert split.split == ("", "train", "", "", "val", "")
    assert split.novel.tolist() == [True, False, False, False, False, True]
    assert split.unseen.tolist() == [True, False, False, False, False, True]
    assert identify(["B"], data, {"test": [0]}).unseen.tolist() == [True]
    with pytest.raises(InputError, match="expected some of train"):
        identify(own, data, {"valid": [0]})
    with pytest.raises(InputError, match="rows up to 5 of 5"):
        identify(own, data, {"train": [5]})


@pytest.mark.skipif(not REFERENCE.exists(), reason="the reference data are not here")
@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.slow)])
def test_real_molecules(count: int) -> None:
    molecules = read(REFERENCE, f":{count}", format="extxyz")
    start = time.process_time()
    verdict = check(molecules)
    assert time.process_time() - start < 0.01 * count
    assert verdict.valid.mean() == pytest.approx(0.955, abs=0.005 if count == 3000 else 0.03)
    assert len(set(verdict.smiles)) == verdict.valid.sum() + 1
