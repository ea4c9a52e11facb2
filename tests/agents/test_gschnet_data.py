"""Molecules to train on: sources, units, connectivity against a graph library, caches, splits, energies."""

import gzip
import io
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.collections import g2
from ase.data import atomic_masses, covalent_radii
from ase.db import connect as open_database
from ase.io import read, write
from ase.neighborlist import neighbor_list
from scipy.sparse.csgraph import connected_components

from megen_gym.agents.gschnet import filters, preparing, qm9
from megen_gym.agents.gschnet.molecules import Molecules
from megen_gym.agents.gschnet.preparing import Connectivity, advice, connect, disconnected, prepare
from megen_gym.agents.gschnet.properties import (
    RelativeEnergy,
    concentrations,
    counts,
    energy_name,
    needed,
    with_computed,
)
from megen_gym.agents.gschnet.reading import available, load
from megen_gym.agents.gschnet.splitting import load_split, split
from megen_gym.agents.gschnet.storage import Cache, nearby
from megen_gym.agents.gschnet.units import factor, parse
from megen_gym.errors import InputError
from megen_gym.io import _frames, write_structures

REFERENCE = Path(os.environ.get("MEGEN_REFERENCE", Path(__file__).resolve().parents[3] / "shared" / "reference"))
TRAIN = REFERENCE / "molecules_train.extxyz.gz"
ORGANIC = [1, 6, 7, 8, 9]
NAMES = ["CH4", "CH3OH", "C6H6", "HCN", "CH3COF", "H2O"]
GAPS = np.array([0.30, 0.25, 0.2, 0.35, 0.15, 0.4])


def some() -> list[Atoms]:
    return [molecule(name) for name in NAMES]


def clusters(seed: int = 0, count: int = 40, spread: float = 1.6, pbc: bool = False) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        size = int(rng.integers(1, 9))
        cell = np.diag(rng.uniform(2, 4, 3)) + rng.normal(0, 0.4, (3, 3)) if pbc else None
        places = rng.normal(0, spread, (size, 3))
        found.append(Atoms(rng.choice(ORGANIC, size), places, cell=cell, pbc=pbc))
    return found


def schnetpack(path: Path, structures: list[Atoms], length: str = "Ang", scale: float = 1.0) -> Path:
    with open_database(path) as database:
        database.metadata = {
            "_property_unit_dict": {"gap": "Hartree", "energy": "kcal/mol", "dipole": "Debye", "rings": None},
            "_distance_unit": length,
            "atomrefs": {"energy": [0.0] * 10},
        }
        for index, atoms in enumerate(structures):
            data = {"gap": GAPS[[index]], "energy": np.array([-100.0 * index]), "rings": np.array([float(index)])}
            data["dipole"] = np.array([1.0, 2.0, index])
            database.write(Atoms(atoms.numbers, atoms.positions * scale), data=data)
    return path


def shapes(molecules: Molecules) -> list[tuple[str, float]]:
    """Formula and sum of the distances: what no order or place changes."""
    return [(a.get_chemical_formula(), round(float(a.get_all_distances().sum()), 5)) for a in molecules.to_atoms()]


def test_molecules_are_centred_and_ordered():
    structures = some()
    for atoms in structures:
        atoms.translate([3, -1, 7])
    molecules = Molecules.from_atoms(structures, {"gap": GAPS}, {"gap": "eV"}, [3, 5, 7, 9, 11, 13])
    assert molecules.positions.shape == (6, 12, 3)
    masses = np.where(molecules.mask, atomic_masses[molecules.numbers], 0)
    np.testing.assert_allclose(np.einsum("mn,mnx->mx", masses, molecules.positions), 0, atol=1e-10)
    far = np.linalg.norm(molecules.positions, axis=2)
    for row, atoms in enumerate(structures):
        assert (np.diff(far[row, : len(atoms)]) > -1e-6).all()
        assert (molecules.numbers[row, len(atoms) :] == 0).all()
        assert (molecules.positions[row, len(atoms) :] == 0).all()
    assert shapes(molecules) == shapes(Molecules.from_atoms(structures))
    assert molecules.n_atoms.tolist() == [len(atoms) for atoms in structures]
    assert [atoms.info["gap"] for atoms in molecules.to_atoms()] == GAPS.tolist()
    part = molecules[[4, 1]]
    assert part.rows.tolist() == [11, 5]
    assert part.properties["gap"].tolist() == GAPS[[4, 1]].tolist()
    assert len(molecules[[]]) == 0
    assert len(molecules[GAPS > 0.29]) == 3


def test_fingerprint_knows_structures_and_order_only():
    molecules = Molecules.from_atoms(some())
    wide = Molecules.from_atoms([*some(), *clusters(count=1), Atoms("H30", np.arange(90).reshape(30, 3))])[:6]
    assert wide.numbers.shape != molecules.numbers.shape
    assert wide.fingerprint == molecules.fingerprint
    assert molecules[::-1].fingerprint != molecules.fingerprint
    moved = some()
    moved[2].positions[0] += 0.01
    assert Molecules.from_atoms(moved).fingerprint != molecules.fingerprint


def test_molecules_refuse():
    with pytest.raises(InputError, match="periodicity"):
        Molecules.from_atoms([molecule("H2O"), bulk("Cu")])
    with pytest.raises(InputError, match="atomic number"):
        Molecules.from_atoms([Atoms("X")])
    with pytest.raises(InputError, match="do not belong together"):
        Molecules.from_atoms(some(), {"gap": GAPS[:2]})


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("Hartree", "eV", 27.211386),
        ("Ha", "kcal/mol", 627.5095),
        ("kcal/mol", "kJ/mol", 4.184),
        ("Bohr", "Ang", 0.529177),
        ("nm", "Angstrom", 10),
        ("Debye", "eAng", 0.208194),
        ("a0 a0 a0", "Ang^3", 0.148185),
        ("eV/Ang", "Ha/Bohr", 0.0194469),
        ("cal/mol/K", "eV/K", 4.33641e-5),
        ("hartree", "ev", 27.211386),
        ("Ang**-2", "1/nm/nm", 100),
        ("arb. unit", None, 1),
    ],
)
def test_units(source, target, expected):
    assert factor(source, target) == pytest.approx(expected, rel=1e-5)
    assert factor(target, source) == pytest.approx(1 / expected, rel=1e-5)


@pytest.mark.parametrize(
    "name", ["eV", "Ha", "Hartree", "Bohr", "kJ", "kcal", "mol", "Debye", "Ang", "nm", "fs", "GPa"]
)
def test_units_have_the_size_that_ase_gives_them(name):
    assert parse(name)[0] == pytest.approx(getattr(units, name))


@pytest.mark.parametrize(
    ("source", "target", "sentence"),
    [
        ("eV", "Ang", "does not measure the same"),
        ("", "eV", "no unit"),
        ("Hartre", "eV", "did you mean 'Hartree'|none of the"),
        ("eV)", "eV", "cannot be understood"),
        ("0 eV", "eV", "above zero"),
    ],
)
def test_units_refuse(source, target, sentence):
    with pytest.raises(InputError, match=sentence):
        factor(source, target)


@pytest.mark.parametrize("covalent", [True, False])
@pytest.mark.parametrize("pbc", [False, True])
def test_neighbours_and_parts_against_ase_and_scipy(covalent, pbc, monkeypatch):
    monkeypatch.setattr(preparing, "_NUMBERS", 500)
    structures = clusters(1, 20, pbc=pbc)
    molecules = Molecules.from_atoms(structures)
    cutoff = 1.5 if pbc else 1.9
    found = connect(molecules, cutoff, covalent, 1.3)
    apart = disconnected(found, molecules.n_atoms)
    some_apart = 0
    for row, atoms in enumerate(molecules.to_atoms()):
        first, second, distance = neighbor_list("ijd", atoms, cutoff)
        limit = 1.3 * (covalent_radii[atoms.numbers[first]] + covalent_radii[atoms.numbers[second]])
        near = (distance <= limit if covalent else distance < 9) & (first != second)
        wanted = np.zeros(found.shape[1:], dtype=bool)
        wanted[first[near], second[near]] = True
        np.testing.assert_array_equal(found[row], wanted)
        parts = connected_components(wanted[: len(atoms), : len(atoms)])[0]
        assert apart[row] == (parts > 1)
        some_apart += parts > 1
    assert 0 < some_apart < len(structures)


def test_a_long_chain_is_connected_from_its_end():
    chain = Molecules.from_atoms([Atoms("C60", np.arange(60)[:, None] * [1.5, 0, 0])])
    bonds = connect(chain, 1.7)
    assert bonds.sum() == 2 * 59
    assert not disconnected(bonds, chain.n_atoms).any()
    bonds[0, 30] = bonds[0, :, 30] = False
    assert disconnected(bonds, chain.n_atoms).all()


def stretched(length: float) -> Atoms:
    """Ethane-like chain whose longest bond is `length` Å."""
    return Atoms("C3", [[0, 0, 0], [1.5, 0, 0], [1.5 + length, 0, 0]])


def test_advice_counts_names_and_connects():
    structures = [stretched(1.5), stretched(1.75), stretched(1.83), molecule("CH4")]
    molecules = Molecules.from_atoms(structures, rows=[10, 20, 30, 40])
    ready = prepare(molecules)
    assert ready.molecules.rows.tolist() == [10, 40]
    assert ready.dropped.tolist() == [20, 30]
    for part in ("2 of 4", "row 20 C3, row 30 C3", "placement_cutoff=1.7", "connect all of them"):
        assert part in ready.sentence
    assert "placement_cutoff=1.85 with covalent_radius_factor=1.25" in ready.sentence
    assert len(prepare(molecules, Connectivity(1.85, True, 1.25)).molecules) == 4
    assert len(prepare(molecules, Connectivity(1.8, True, 1.25)).molecules) == 3
    assert len(prepare(molecules, Connectivity(1.85, True, 1.2)).molecules) == 3


def test_advice_without_radii_and_for_separate_molecules():
    pair = molecule("CH4")
    far = molecule("CH4")
    far.translate([6, 0, 0])
    molecules = Molecules.from_atoms([stretched(1.8), pair + far])
    without = Connectivity(1.7, False)
    assert "placement_cutoff=1.8 would connect 1 of them (1 have parts" in advice(molecules, 2, without)
    assert "no cut-off is advised" in advice(molecules[[1]], 2, Connectivity())
    periodic = Atoms("Cu2", [[0, 0, 0], [2.5, 0, 0]], cell=[5.5, 3, 3], pbc=True)
    text = advice(Molecules.from_atoms([periodic]), 1, Connectivity())
    assert "placement_cutoff=2.5 with covalent_radius_factor=1.1 would connect all" in text


def test_single_atoms_are_left_out_and_said(caplog):
    molecules = Molecules.from_atoms([Atoms("C"), molecule("CH4"), Atoms("H"), Atoms("C")])
    with caplog.at_level(logging.WARNING):
        ready = prepare(molecules)
    assert ready.molecules.rows.tolist() == [1]
    assert "3 molecules of one atom left out (row 0 C, row 2 H, row 3 C)" in caplog.text
    with pytest.raises(InputError, match="none of the 2 molecules can be trained on"):
        prepare(molecules[[0, 2]])
    with pytest.raises(InputError, match="placement_cutoff is -1"):
        Connectivity(-1)


@pytest.mark.skipif(not TRAIN.exists(), reason="needs the shared reference")
def test_known_disconnected_molecules():
    frames = _frames(gzip.decompress(TRAIN.read_bytes()).decode(), TRAIN, "refuse")[700:800]
    structures = read(io.StringIO("".join(frames)), ":", format="extxyz")
    ready = prepare(Molecules.from_atoms(structures, rows=np.arange(700, 800)))
    assert ready.dropped.tolist() == [755]
    assert "would connect all of them" in ready.sentence


def test_cache_of_each_setting_is_its_own(tmp_path):
    molecules = Molecules.from_atoms(clusters(2, spread=0.8))
    first = prepare(molecules, Connectivity(2.0, False), tmp_path / "cache", keep_cache=True)
    second = prepare(molecules, Connectivity(2.5, False), tmp_path / "cache", keep_cache=True)
    third = prepare(molecules[:30], Connectivity(2.0, False), tmp_path / "cache", keep_cache=True)
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert (first.adjacency.sum(), first.adjacency.shape) != (second.adjacency.sum(), second.adjacency.shape)
    again = prepare(molecules, Connectivity(2.0, False), tmp_path / "cache", keep_cache=True)
    np.testing.assert_array_equal(again.adjacency, first.adjacency)
    for ready in (first, second, third):
        ready.cache.finish()
    assert len(list((tmp_path / "cache").iterdir())) == 3
    prepare(molecules, Connectivity(2.0, False), tmp_path / "cache").cache.finish()
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_cache_is_what_is_read(tmp_path, monkeypatch):
    molecules = Molecules.from_atoms(clusters(2, spread=0.8))
    first = prepare(molecules, Connectivity(2.0, False), tmp_path)
    monkeypatch.setattr(preparing, "connect", None)
    np.testing.assert_array_equal(prepare(molecules, Connectivity(2.0, False), tmp_path).adjacency, first.adjacency)


def test_cache_file_of_other_settings_is_refused(tmp_path):
    molecules, file = Molecules.from_atoms(clusters(2, spread=0.8)), tmp_path / "mine.npz"
    prepare(molecules, Connectivity(2.0, False), file, keep_cache=True)
    with pytest.raises(InputError, match=r"other settings: placement_cutoff=2.0 \(now 2.5\)"):
        prepare(molecules, Connectivity(2.5, False), file)
    with pytest.raises(InputError, match="other molecules"):
        prepare(molecules[:30], Connectivity(2.0, False), file)
    file.write_bytes(file.read_bytes()[:200])
    again = prepare(molecules, Connectivity(2.0, False), file, keep_cache=True)
    np.testing.assert_array_equal(again.adjacency, prepare(molecules, Connectivity(2.0, False)).adjacency)


def test_cache_copy_on_fast_storage(tmp_path):
    molecules = Molecules.from_atoms(clusters(2, spread=0.8))
    first = prepare(molecules, Connectivity(2.0, False), tmp_path / "slow", True, tmp_path / "fast")
    (copy,) = (tmp_path / "fast").iterdir()
    copy.write_bytes(b"torn by a crash")
    again = prepare(molecules, Connectivity(2.0, False), tmp_path / "slow", True, tmp_path / "fast")
    np.testing.assert_array_equal(again.adjacency, first.adjacency)
    again.cache.finish()
    assert not list((tmp_path / "fast").iterdir())
    assert len(list((tmp_path / "slow").iterdir())) == 1


def _prepared(folder: str, seed: int) -> int:
    molecules = Molecules.from_atoms(clusters(2, spread=0.8))
    return int(prepare(molecules, Connectivity(2.0 + 0.5 * (seed % 2), False), folder, seed > 1).adjacency.sum())


def test_cache_shared_by_processes(tmp_path):
    wanted = [_prepared(str(tmp_path / "alone"), seed) for seed in range(4)]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        found = pool.starmap(_prepared, [(str(tmp_path / "shared"), seed % 4) for seed in range(16)])
    assert found == wanted * 4
    assert len(list((tmp_path / "shared").iterdir())) == 2


def test_killed_writer_of_a_cache_harms_nobody(tmp_path):
    script = f"""
        import os, signal, numpy as np
        from megen_gym.agents.gschnet.storage import Cache
        def torn(file, **arrays):
            file.write(b"half"); file.flush(); os.kill(os.getpid(), signal.SIGKILL)
        np.savez_compressed = torn
        Cache.of({str(tmp_path)!r}, True, None, {{"placement_cutoff": 1.7}}).write(np.ones((2, 3, 3), bool))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [file.name[:5] for file in tmp_path.iterdir()] == [".tmp-"]
    cache = Cache.of(tmp_path, True, None, {"placement_cutoff": 1.7})
    assert cache.read(3, 2) is None
    cache.write(np.eye(3, dtype=bool)[None].repeat(2, 0))
    assert cache.read(3, 2).sum() == 6


def test_full_disk_costs_the_cache_only(tmp_path, monkeypatch, caplog):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    ready = prepare(Molecules.from_atoms(some()), cache_path=tmp_path)
    assert len(ready.molecules) == 6
    assert "not kept" in caplog.text
    assert not list(tmp_path.iterdir())


def test_data_on_fast_storage_for_the_time_of_reading(tmp_path):
    path = schnetpack(tmp_path / "a.db", some())
    plain = load(path, ORGANIC, progress=False)
    assert load(path, ORGANIC, data_workdir=tmp_path / "fast", progress=False).fingerprint == plain.fingerprint
    assert not list((tmp_path / "fast").iterdir())
    with nearby(path, tmp_path / "fast") as copy:
        assert copy.read_bytes() == path.read_bytes()
        assert copy.parent == tmp_path / "fast"
    assert not list((tmp_path / "fast").iterdir())
    left = tmp_path / "fast" / f"{copy.name.split('-')[0]}-999-a.db"
    left.write_bytes(b"left by a killed run")
    os.utime(left, (0, 0))
    assert load(path, ORGANIC, data_workdir=tmp_path / "fast", progress=False).fingerprint == plain.fingerprint
    assert not left.exists()


def test_schnetpack_database(tmp_path):
    path = schnetpack(tmp_path / "a.db", some())
    assert available(path) == {"gap": "Hartree", "energy": "kcal/mol", "dipole": "Debye", "rings": ""}
    found = load(path, ORGANIC, ["gap", "energy", "dipole", "rings"], {"gap": "eV", "energy": "eV"}, progress=False)
    assert found.units == {"gap": "eV", "energy": "eV", "dipole": "Debye", "rings": ""}
    np.testing.assert_allclose(found.properties["gap"], GAPS * 27.211386, rtol=1e-6)
    np.testing.assert_allclose(found.properties["energy"], -100 * np.arange(6) * 0.0433641, rtol=1e-5)
    np.testing.assert_array_equal(found.properties["dipole"][:, 2], np.arange(6))
    assert shapes(found) == shapes(Molecules.from_atoms(some()))
    bohr = load(schnetpack(tmp_path / "b.db", some(), "Bohr", 1 / units.Bohr), ORGANIC, progress=False)
    np.testing.assert_allclose(bohr.positions, found.positions, atol=1e-6)


def test_plain_database(tmp_path):
    with open_database(tmp_path / "a.db") as database:
        for index, atoms in enumerate(some()):
            database.write(atoms, gap=float(GAPS[index]), label="x")
    with pytest.raises(InputError, match=r"does not say the unit of gap .*--property_units .*gap.*eV"):
        load(tmp_path / "a.db", ORGANIC, ["gap"], progress=False)
    found = load(tmp_path / "a.db", ORGANIC, ["gap"], {"gap": "Ha"}, progress=False)
    np.testing.assert_array_equal(found.properties["gap"], GAPS)
    assert found.units == {"gap": "Ha"}


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz.gz", "a.traj"])
def test_other_formats(tmp_path, name):
    structures = some()
    for atoms, gap in zip(structures, GAPS, strict=True):
        atoms.info |= {"gap": gap, "energy": -3.0, "smiles": "C", "v": np.array([1.0, gap])}
    if name.endswith(".traj"):
        write(tmp_path / name, structures)
    else:
        write_structures(tmp_path / name, structures)
    found = load(tmp_path / name, ORGANIC, ["gap", "v", "energy"], {"gap": "eV", "v": "1", "energy": "kcal/mol"})
    np.testing.assert_allclose(found.properties["gap"], GAPS)
    np.testing.assert_allclose(found.properties["v"][:, 1], GAPS)
    np.testing.assert_allclose(found.properties["energy"], -69.18, rtol=1e-4)
    np.testing.assert_allclose(found.positions, Molecules.from_atoms(some()).positions, atol=1e-6)
    assert "smiles" not in available(tmp_path / name)


def test_lengths_of_a_file_that_does_not_say_them(tmp_path):
    write(tmp_path / "a.xyz", [Atoms(a.numbers, a.positions / units.Bohr) for a in some()])
    found = load(tmp_path / "a.xyz", ORGANIC, distance_unit="Bohr")
    np.testing.assert_allclose(found.positions, Molecules.from_atoms(some()).positions, atol=1e-6)


def test_periodic_structures(tmp_path):
    write(tmp_path / "a.xyz", [bulk("Cu", cubic=True), bulk("Au", cubic=True) * (2, 1, 1)])
    found = load(tmp_path / "a.xyz", [29, 79])
    assert found.pbc == (True, True, True)
    ready = prepare(found, Connectivity(3.0, True, 1.1))
    assert len(ready.molecules) == 2
    assert ready.molecules.to_atoms()[1].cell.volume == pytest.approx(found.cells[1].prod(where=np.eye(3, dtype=bool)))
    write(tmp_path / "b.xyz", [bulk("Cu"), Atoms("Cu2", [[0, 0, 0], [2, 0, 0]])])
    with pytest.raises(InputError, match="differ in their periodicity"):
        load(tmp_path / "b.xyz", [29])


def test_molecules_that_come_with_ase():
    found = load(None, ORGANIC)
    assert len(prepare(found).molecules) > 90
    assert set(np.unique(found.numbers)) == {0, *ORGANIC}
    assert found.n_atoms.min() == 2
    assert found.n_atoms.max() > 18
    assert len(set(shapes(found))) == len(found)
    assert "C5H5N5" in {formula for formula, _ in shapes(found)}
    whole = {a.get_chemical_formula() for a in (g2[name] for name in g2.names) if set(a.numbers) <= {1, 6}}
    assert whole - {"C", "H"} <= {formula for formula, _ in shapes(load(None, [1, 6]))}
    with pytest.raises(InputError, match="no molecule of the elements 92"):
        load(None, [92])
    with pytest.raises(InputError, match="no property gap"):
        load(None, ORGANIC, ["gap"])


def qm9_files() -> dict[str, str]:
    found = {}
    for index, atoms in enumerate(some()):
        values = "\t".join(f"{v:.6f}" for v in [*range(1, 8), GAPS[index], *range(9, 16)])
        rows = [
            f"{s}\t{x:.8f}\t{y:.8f}\t{z:.8f}\t-0.1" for s, (x, y, z) in zip(atoms.symbols, atoms.positions, strict=True)
        ]
        text = "\n".join([str(len(atoms)), f"gdb {index + 1}\t{values}", *rows, "1.0\t2.0", "C\tC", "InChI\tInChI", ""])
        found[f"dsgdb9nsd_{index + 1:06d}.xyz"] = text.replace("0.00000000", "1.*^-9", 1)
    return found


def qm9_archive(folder: Path, files: dict[str, str]) -> Path:
    raw = folder / "raw"
    raw.mkdir()
    for name, text in files.items():
        (raw / name).write_text(text)
    with tarfile.open(folder / "dsgdb9nsd.xyz.tar.bz2", "w:bz2") as archive:
        for name in sorted(files, reverse=True):
            archive.add(raw / name, name)
    return folder / "dsgdb9nsd.xyz.tar.bz2"


@pytest.mark.parametrize("folder", [True, False])
def test_qm9(tmp_path, folder, caplog):
    path = qm9_archive(tmp_path, qm9_files())
    path = tmp_path / "raw" if folder else path
    found = load(path, ORGANIC, ["gap", "energy_U0", "mu"], {"gap": "eV"}, progress=False)
    assert "no list uncharacterized.txt" in caplog.text
    assert shapes(found) == shapes(Molecules.from_atoms(some()))
    np.testing.assert_allclose(found.properties["gap"], GAPS * units.Ha)
    assert found.properties["energy_U0"].tolist() == [11.0] * 6
    assert found.properties["mu"].tolist() == [4.0] * 6
    assert found.units == {"gap": "eV", "energy_U0": "Ha", "mu": "Debye"}
    assert available(path)["isotropic_polarizability"] == "a0 a0 a0"


def test_qm9_without_uncharacterized_molecules(tmp_path):
    path = qm9_archive(tmp_path, qm9_files())
    text = "Uncharacterized\n\n Index  SMILES\n 2  C  C\n 5  CC  CC\n 2 compounds\n"
    (tmp_path / "uncharacterized.txt").write_text(text.replace("2 compounds", "6 compounds"))
    assert load(path, ORGANIC, progress=False).rows.tolist() == [0, 2, 3, 5]
    assert len(load(path, ORGANIC, remove_uncharacterized=False, progress=False)) == 6
    (tmp_path / "mine.txt").write_text("1\n")
    found = load(path, ORGANIC, remove_uncharacterized=tmp_path / "mine.txt", progress=False)
    assert found.rows.tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(InputError, match="does not exist"):
        load(path, ORGANIC, remove_uncharacterized=tmp_path / "other.txt", progress=False)


def test_qm9_damaged(tmp_path, caplog):
    files = qm9_files()
    files["dsgdb9nsd_000003.xyz"] = files["dsgdb9nsd_000003.xyz"][:200]
    path = qm9_archive(tmp_path, files)
    assert load(path, ORGANIC, progress=False).rows.tolist() == [0, 1, 3, 4, 5]
    assert "molecule 3 of QM9 is damaged" in caplog.text
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="cannot be read"):
        load(path, ORGANIC, progress=False)
    (tmp_path / "empty").mkdir()
    with tarfile.open(tmp_path / "e.tar", "w"):
        pass
    with pytest.raises(InputError, match="holds no file dsgdb9nsd"):
        load(tmp_path / "e.tar", ORGANIC, progress=False)
    assert len(qm9.PROPERTIES) == len(qm9.SHORT) == 15


def test_elements_outside_atom_types_are_counted(tmp_path):
    path = schnetpack(tmp_path / "a.db", some())
    with pytest.raises(InputError, match=r"O \(3 molecules\), F \(1 molecules\); add 8,9 to --atom_types"):
        load(path, [1, 6, 7], progress=False)
    with pytest.raises(InputError, match="give atomic numbers"):
        load(path, [0, 6], progress=False)


@pytest.mark.parametrize(
    ("properties", "wanted", "sentence"),
    [
        (["gab"], {}, r"no property gab; it has gap \[Hartree\], energy \[kcal/mol\]"),
        (["gap"], {"gap": "Ang"}, "the property gap of .* was asked for in 'Ang'"),
        (["gap"], {"gpa": "eV"}, "no property gpa"),
        (["gap"], {"gap": "eW"}, "unknown unit 'eW'"),
    ],
)
def test_properties_and_units_that_are_not_there(tmp_path, properties, wanted, sentence):
    with pytest.raises(InputError, match=sentence):
        load(schnetpack(tmp_path / "a.db", some()), ORGANIC, properties, wanted, progress=False)


def test_damaged_rows_are_said(tmp_path, caplog):
    structures = some()
    structures[1].positions[0] = np.nan
    structures[2].positions[1] = structures[2].positions[0] + 0.1
    structures[4].info["gap"] = np.inf
    for atoms, gap in zip(structures, GAPS, strict=True):
        atoms.info.setdefault("gap", gap)
    structures[5].info.pop("gap")
    write(tmp_path / "a.traj", structures)
    assert load(tmp_path / "a.traj", ORGANIC, ["gap"], {"gap": "eV"}).rows.tolist() == [0, 3]
    assert "structure 1 has positions or a cell that are NaN" in caplog.text
    assert "structure 4 has no finite gap; structure 5 has no finite gap" in caplog.text
    assert "1 structures" in caplog.text
    assert "closer than 0.5 Å, left out (rows 2)" in caplog.text


def test_a_damaged_row_of_a_database(tmp_path, caplog):
    import sqlite3

    path = schnetpack(tmp_path / "a.db", some())
    with sqlite3.connect(path) as database:
        database.execute("UPDATE systems SET data=? WHERE id=3", (b"\x00\x01torn",))
    assert load(path, ORGANIC, ["gap"], progress=False).rows.tolist() == [0, 1, 3, 4, 5]
    assert "row 2 cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.db", None, "does not exist"),
        ("a.db", b"no database" * 100, "cannot be read as an ASE database"),
        ("a.db", b"", "is empty"),
        ("a.txt", b"1\n\nH 0 0 0\n", "no known ending"),
        ("a.xyz", b"5\n\nH 0 0 0\n", "cut short"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        load(tmp_path / name, ORGANIC, progress=False)


def test_database_without_rows_and_with_uneven_properties(tmp_path):
    schnetpack(tmp_path / "a.db", [])
    with pytest.raises(InputError, match="has no rows"):
        load(tmp_path / "a.db", ORGANIC, progress=False)
    structures = some()
    for index, atoms in enumerate(structures):
        atoms.info["v"] = np.arange(index + 1.0)
    write(tmp_path / "a.traj", structures)
    with pytest.raises(InputError, match="has 1 to 6 numbers per molecule"):
        load(tmp_path / "a.traj", ORGANIC, ["v"], {"v": "1"})


@pytest.fixture
def data() -> Molecules:
    isomers = [molecule(name) for name in ["CH3CH2OH", "CH3OCH3"] * 10]
    structures = [*some(), *isomers]
    gaps = np.concatenate([GAPS, np.linspace(1, 3, 20)])
    vectors = np.stack([gaps, np.arange(26)], 1)
    return Molecules.from_atoms(structures, {"gap": gaps, "v": vectors}, {"gap": "eV", "v": ""})


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("gap>2.5", lambda m, g: g > 2.5),
        ("gap >= 1 and n_atoms<=9 and n_heavy_atoms == 3", lambda m, g: g >= 1),
        ("gap<0.2 or gap>2.9", lambda m, g: (g < 0.2) | (g > 2.9)),
        ("composition==C2H6O", lambda m, g: g >= 1),
        ("composition!=C2H6O", lambda m, g: g < 1),
        ("composition<=CH4", lambda m, g: np.arange(26) == 0),
        ("composition<CH4O", lambda m, g: np.isin(np.arange(26), [0, 5])),
        ([{"property": "gap", "operator": "<", "value": 0.2}], lambda m, g: g < 0.2),
        (
            json.dumps([{"property": ["gap", "n_atoms"], "operator": ["!=", ">"], "value": [0.25, 5]}]),
            lambda m, g: (g != 0.25) & (m.n_atoms > 5),
        ),
        ([{"property": "v", "operator": ">", "value": [1.5, 20]}], lambda m, g: (g > 1.5) & (np.arange(26) > 20)),
        (None, lambda m, g: g > 99),
        ("", lambda m, g: g > 99),
    ],
)
def test_filters(data, given, wanted):
    found = filters.excluded(data, filters.parse(given))
    np.testing.assert_array_equal(found, wanted(data, data.properties["gap"]))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("gap~4", "not understood"),
        ("gap>x", "give a number"),
        ("composition==Qq7", "give a formula"),
        ("gab>4", "did you mean 'gap'"),
        ("v>[1, 2]", "give a number"),
        ([{"property": "v", "operator": ">", "value": [1, 2, 3]}], "give as many"),
        ([{"property": "v", "operator": ">>", "value": 1}], "unknown operator"),
        ([{"property": ["gap"], "operator": [">"], "value": [1, 2]}], "different lengths"),
        ("[{]", "no JSON"),
        ([{"property": "gap"}], "give its property, operator and value"),
    ],
)
def test_filters_refuse(data, given, sentence):
    with pytest.raises(InputError, match=sentence):
        filters.excluded(data, filters.parse(given))


def test_properties_of_filters():
    assert filters.properties_of(filters.parse("gap>1 and n_atoms<3 or gap<0")) == ["gap", "n_atoms"]


def test_split_by_numbers_shares_and_filters(data):
    for sizes in [(10, 5, None), (10 / 26, 5 / 26, None), (10, 5, 11), (None, 5, 11)]:
        found = split(data, *sizes, seed=3)
        assert [len(found.train), len(found.valid), len(found.test)] == [10, 5, 11]
        every = np.concatenate([found.train, found.valid, found.test])
        assert sorted(every.tolist()) == list(range(26))
    again, other = split(data, 10, 5, seed=3), split(data, 10, 5, seed=4)
    np.testing.assert_array_equal(again.train, found.train)
    assert (other.train != found.train).any()
    gone = split(data, 4, 1, filters=filters.parse("composition==C2H6O"), seed=1)
    assert gone.n_excluded == 20
    assert set(range(6, 26)) <= set(gone.test.tolist())
    assert len(gone.test) == 21
    assert len(split(data, 2, 1, 22, filters=filters.parse("composition==C2H6O")).test) == 22
    assert len(split(data, 1, 1).train) == 1
    assert len(split(data, 1.0, 0).train) == 26
    assert len(split(data, 2, 1, 3).test) == 3


@pytest.mark.parametrize(
    ("sizes", "text", "sentence"),
    [
        ((26, 1), "", "there are 26; give smaller"),
        ((10, 5), "gap>0.9", "20 of them excluded"),
        ((2, 1, 5), "gap>0.9", "filters keep 20 of 26"),
        ((-1, 1), "", "num_train is -1"),
        ((2.5, 1), "", "num_train is 2.5"),
        ((None, 26), "", "need 1"),
    ],
)
def test_split_refuses(data, sizes, text, sentence):
    with pytest.raises(InputError, match=sentence):
        split(data, *sizes, filters=filters.parse(text))


def test_split_is_remembered(tmp_path, data):
    first = split(data, 10, 5, filters=filters.parse("gap>2.9"))
    path = first.save(tmp_path, data, Connectivity())
    assert path == tmp_path / "split.npz"
    again = load_split(tmp_path, data, Connectivity(), 10, 5)
    for name in ("train", "valid", "test", "n_excluded"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    with pytest.raises(InputError, match=r"placement_cutoff=1.7 \(now 2.0\)"):
        load_split(tmp_path, data, Connectivity(2.0))
    with pytest.raises(InputError, match="10 molecules where num_train=11"):
        load_split(tmp_path, data, Connectivity(), 11)
    with pytest.raises(InputError, match="other molecules"):
        load_split(tmp_path, data[:-1], Connectivity())
    with pytest.raises(InputError, match="does not exist"):
        load_split(tmp_path / "other", data, Connectivity())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="no complete split"):
        load_split(tmp_path, data, Connectivity())


def test_computed_properties(data):
    found = with_computed(data, ["composition", "n_atoms", "n_heavy_atoms", "gap"], ORGANIC)
    assert found.properties["composition"][1].tolist() == [4, 1, 0, 1, 0]
    assert found.properties["n_atoms"][:3].tolist() == [5, 6, 12]
    assert found.properties["n_heavy_atoms"][:3].tolist() == [1, 2, 6]
    np.testing.assert_array_equal(counts(data.numbers, ORGANIC).sum(1), data.n_atoms)
    np.testing.assert_allclose(concentrations(data, ORGANIC).sum(1), 1)
    with pytest.raises(InputError, match="without a fit"):
        with_computed(data, ["relative_atomic_energy"], ORGANIC)


def energetic(count: int = 60) -> Molecules:
    rng = np.random.default_rng(5)
    structures = clusters(6, count)
    energies = [len(a) * rng.normal() + a.numbers.sum() * -10.0 for a in structures]
    return Molecules.from_atoms(structures, {"energy": energies}, {"energy": "eV"})


def test_relative_energy_against_least_squares():
    molecules = energetic()
    train = molecules[:40]
    fitted = RelativeEnergy.fit(train, "energy", ORGANIC)
    x = np.stack([(molecules.numbers == z).sum(1) / molecules.n_atoms for z in ORGANIC], 1)
    y = molecules.properties["energy"] / molecules.n_atoms
    design = np.column_stack([x[:40], np.ones(40)])
    solution = np.linalg.lstsq(design, y[:40], rcond=None)[0]
    wanted = y - np.column_stack([x, np.ones(60)]) @ solution
    np.testing.assert_allclose(fitted.of(molecules), wanted, atol=1e-8)
    assert abs(fitted.of(train).mean()) < 1e-8
    assert abs(fitted.of(molecules[40:]).mean()) > 1e-3
    found = with_computed(molecules, ["relative_atomic_energy"], ORGANIC, fitted)
    np.testing.assert_array_equal(found.properties["relative_atomic_energy"], fitted.of(molecules))
    assert found.units["relative_atomic_energy"] == "eV"


def test_relative_energy_is_fitted_once_and_kept():
    molecules = energetic()
    fitted = RelativeEnergy.fit(molecules, "energy", ORGANIC, seed=1, max_points=30)
    assert fitted == RelativeEnergy.fit(molecules, "energy", ORGANIC, seed=1, max_points=30)
    assert fitted != RelativeEnergy.fit(molecules, "energy", ORGANIC, seed=2, max_points=30)
    assert RelativeEnergy.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted
    with pytest.raises(InputError, match="no fitted relative energy"):
        RelativeEnergy.from_dict({"energy": "energy"})
    with pytest.raises(InputError, match="no property energy_U0 to fit"):
        RelativeEnergy.fit(molecules, "energy_U0", ORGANIC)
    other = Molecules.from_atoms(clusters(6, 3), {"energy": [1, 2, 3]}, {"energy": "Ha"})
    with pytest.raises(InputError, match="in eV, but the molecules have it in Ha"):
        fitted.of(other)


def test_properties_that_conditions_need():
    there = {"gap": "eV", "energy_U0": "Ha"}
    assert needed(["gap", "relative_atomic_energy", "composition", "n_atoms"], there) == ["gap", "energy_U0"]
    assert needed(["relative_atomic_energy"], [*there, "relative_atomic_energy"]) == ["relative_atomic_energy"]
    assert energy_name(["energy", "energy_U0"]) == "energy"
    with pytest.raises(InputError, match=r"no property energy or .*there are gap"):
        needed(["relative_atomic_energy"], ["gap"])
    with pytest.raises(InputError, match=r"no property total \(there"):
        energy_name(there, "total")
